package main

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"io"
	"path/filepath"
	"sort"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
)

// state is an agent's state in bbolt: four buckets, every value sealed and bound to its key.
type state struct {
	db      *bolt.DB
	update  func(func(*bolt.Tx) error) error
	aead    cipher.AEAD
	mu      sync.Mutex
	nonces  *bufio.Reader
	nextLog uint64
}

var buckets = [][]byte{[]byte("config"), []byte("queue"), []byte("registry"), []byte("logs")}

var (
	bucketConfig   = buckets[0]
	bucketQueue    = buckets[1]
	bucketRegistry = buckets[2]
	bucketLogs     = buckets[3]
)

const nonceLen = 12

// openState uses bbolt's defaults, which sync each commit, with the faster of its two free lists.
func openState(folder string) *state {
	options := *bolt.DefaultOptions
	options.FreelistType = bolt.FreelistMapType
	options.Timeout = 5 * time.Second
	db, err := bolt.Open(filepath.Join(folder, "state.bolt"), 0o600, &options)
	check(err)
	missing := false
	check(db.View(func(tx *bolt.Tx) error {
		missing = tx.Bucket(bucketLogs) == nil
		return nil
	}))
	if missing {
		check(db.Update(func(tx *bolt.Tx) error {
			for _, name := range buckets {
				if _, err := tx.CreateBucketIfNotExists(name); err != nil {
					return err
				}
			}
			return nil
		}))
	}
	block, err := aes.NewCipher(make([]byte, 32))
	check(err)
	aead, err := cipher.NewGCM(block)
	check(err)
	// Nonces are fetched many at a time: a system call for each would cost more than sealing.
	nonces := bufio.NewReaderSize(rand.Reader, 64*nonceLen)
	return &state{db: db, update: db.Update, aead: aead, nonces: nonces}
}

func (s *state) close() { check(s.db.Close()) }

func (s *state) seal(key, value []byte) []byte {
	sealed := make([]byte, nonceLen, nonceLen+len(value)+s.aead.Overhead())
	s.mu.Lock()
	_, err := io.ReadFull(s.nonces, sealed)
	s.mu.Unlock()
	check(err)
	return s.aead.Seal(sealed, sealed, value, key)
}

func (s *state) open(key, sealed []byte) []byte {
	value, err := s.aead.Open(nil, sealed[:nonceLen], sealed[nonceLen:], key)
	check(err)
	return value
}

func (s *state) put(bucket, key, value []byte) {
	sealed := s.seal(key, value)
	check(s.update(func(tx *bolt.Tx) error { return tx.Bucket(bucket).Put(key, sealed) }))
}

func (s *state) enqueue(id string, payload []byte) { s.put(bucketQueue, []byte(id), payload) }

// enqueueAll sorts the keys: out of order, each put moves the keys after it.
func (s *state) enqueueAll(first, end int, payload []byte) {
	ids := make([]string, 0, end-first)
	for i := first; i < end; i++ {
		ids = append(ids, runID(i))
	}
	sort.Strings(ids)
	check(s.db.Update(func(tx *bolt.Tx) error {
		queue := tx.Bucket(bucketQueue)
		for _, id := range ids {
			key := []byte(id)
			if err := queue.Put(key, s.seal(key, payload)); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (s *state) ack(id string) {
	check(s.update(func(tx *bolt.Tx) error { return tx.Bucket(bucketQueue).Delete([]byte(id)) }))
}

func (s *state) ackAll(first, end int) {
	check(s.db.Update(func(tx *bolt.Tx) error {
		for i := first; i < end; i++ {
			if err := tx.Bucket(bucketQueue).Delete([]byte(runID(i))); err != nil {
				return err
			}
		}
		return nil
	}))
}

func (s *state) dequeue(count int) (jobs [][2][]byte) {
	check(s.db.View(func(tx *bolt.Tx) error {
		cursor := tx.Bucket(bucketQueue).Cursor()
		for key, sealed := cursor.First(); key != nil && len(jobs) < count; key, sealed = cursor.Next() {
			jobs = append(jobs, [2][]byte{append([]byte(nil), key...), s.open(key, sealed)})
		}
		return nil
	}))
	return jobs
}

func (s *state) saveConfig(raw []byte) { s.put(bucketConfig, []byte("current"), raw) }

func (s *state) loadConfig() (raw []byte) {
	key := []byte("current")
	check(s.db.View(func(tx *bolt.Tx) error {
		raw = s.open(key, tx.Bucket(bucketConfig).Get(key))
		return nil
	}))
	return raw
}

func (s *state) heartbeat(ms int64) {
	s.put(bucketRegistry, []byte("heartbeat"), binary.LittleEndian.AppendUint64(nil, uint64(ms)))
}

func (s *state) log(ms int64, payload []byte) {
	s.nextLog++
	key := binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, uint64(ms)), s.nextLog)
	s.put(bucketLogs, key, payload)
}

// drain reads and removes in one transaction.
func (s *state) drain(count int) (events [][]byte) {
	check(s.db.Update(func(tx *bolt.Tx) error {
		events = events[:0]
		var keys [][]byte
		logs := tx.Bucket(bucketLogs)
		cursor := logs.Cursor()
		for key, sealed := cursor.First(); key != nil && len(events) < count; key, sealed = cursor.Next() {
			events = append(events, s.open(key, sealed))
			keys = append(keys, append([]byte(nil), key...))
		}
		for _, key := range keys {
			if err := logs.Delete(key); err != nil {
				return err
			}
		}
		return nil
	}))
	return events
}

// runID is the same as in the Rust crate.
func runID(i int) string {
	random := (uint64(i) + 1) * 0x9E37_79B9_7F4A_7C15
	return fmt.Sprintf("%08x-f00a-41db-aff5-%012x", random>>32, i)
}
