package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

var payload = make([]byte, 512)

const live = 100

func enqueue(folder string, length, count int) figure {
	s := openState(folder)
	defer s.close()
	payload := make([]byte, length)
	s.enqueue(runID(count), payload)
	return timeCalls(count, short, func(i int) { s.enqueue(runID(i), payload) })
}

func eightThreads(folder string, batched bool) figure {
	const threads, duration = 8, 800 * time.Millisecond
	s := openState(folder)
	defer s.close()
	if batched {
		s.update = s.db.Batch
		// A batch is committed as soon as all threads wait for it, instead of after 10 ms.
		s.db.MaxBatchSize = threads
		s.db.MaxBatchDelay = time.Millisecond
	}
	s.enqueue(runID(0), payload)
	var done sync.WaitGroup
	each := make([][]time.Duration, threads)
	begun := time.Now()
	for thread := 0; thread < threads; thread++ {
		done.Add(1)
		go func(thread int) {
			defer done.Done()
			for time.Since(begun) < duration {
				callBegun := time.Now()
				s.enqueue(runID((thread+1)*1_000_000+len(each[thread])), payload)
				each[thread] = append(each[thread], time.Since(callBegun))
			}
		}(thread)
	}
	done.Wait()
	took := time.Since(begun)
	var all []time.Duration
	for _, some := range each {
		all = append(all, some...)
	}
	return calls(all, took)
}

func heartbeat(folder string, _ bool) figure {
	s := openState(folder)
	defer s.close()
	s.heartbeat(0)
	return timeCalls(250, short, func(i int) { s.heartbeat(int64(i)) })
}

func logAppend(folder string, _ bool) figure {
	s := openState(folder)
	defer s.close()
	s.log(0, payload)
	return timeCalls(250, short, func(i int) { s.log(int64(i), payload) })
}

func drain(folder string, _ bool) figure {
	const drains, events = 40, 100
	s := openState(folder)
	defer s.close()
	s.db.NoSync = true
	for i := 0; i < (drains+1)*events; i++ {
		s.log(int64(i), payload)
	}
	check(s.db.Sync())
	s.db.NoSync = false
	s.drain(events)
	return timeCalls(drains, short, func(int) { expect(len(s.drain(events)), events) })
}

func churn(folder string, _ bool) figure {
	s := openState(folder)
	defer s.close()
	s.enqueueAll(0, live, payload)
	return timeCalls(2*2000, long, func(i int) {
		if i%2 == 0 {
			s.enqueue(runID(i/2+live), payload)
		} else {
			s.ack(runID(i / 2))
		}
	})
}

func batch(folder string, _ bool) figure {
	const count = 100_000
	s := openState(folder)
	defer s.close()
	s.enqueue(runID(count), payload)
	begun := time.Now()
	s.enqueueAll(0, count, payload)
	return figure{"seconds": time.Since(begun).Seconds() / count}
}

func dequeue(folder string, _ bool) figure {
	s := openState(folder)
	defer s.close()
	s.enqueueAll(0, 100, payload)
	return average(2000, func() { expect(len(s.dequeue(100)), 100) })
}

func config(folder string, _ bool) figure {
	s := openState(folder)
	defer s.close()
	s.saveConfig(make([]byte, 4096))
	return average(20_000, func() { expect(len(s.loadConfig()), 4096) })
}

func expect(got, want int) {
	if got != want {
		panic(fmt.Sprintf("got %d, want %d", got, want))
	}
}

func open(folder, what string) figure {
	prepareInChild(what, folder)
	begun := time.Now()
	s := openState(folder)
	took := time.Since(begun)
	s.close()
	return figure{"seconds": took.Seconds()}
}

// openAgain opens an empty database first.
func openAgain(folder, what string) figure {
	empty, other := filepath.Join(folder, "empty"), filepath.Join(folder, "other")
	check(os.Mkdir(empty, 0o777))
	check(os.Mkdir(other, 0o777))
	openState(empty).close()
	return open(other, what)
}

func prepareInChild(what, folder string) {
	child, err := os.Executable()
	check(err)
	command := exec.Command(child, "prepare", what, "bbolt", folder)
	command.Stderr = os.Stderr
	if err := command.Run(); err != nil && !strings.Contains(what, "killed") {
		check(err)
	}
	syscall.Sync()
}

func prepare(what, folder string) {
	kind, number, _ := strings.Cut(what, "-")
	count, err := strconv.Atoi(number)
	check(err)
	s := openState(folder)
	s.db.NoSync = true
	if strings.HasPrefix(kind, "dead") {
		churnBuffered(s, count)
	} else {
		step := 100
		if count/100 > step {
			step = count / 100
		}
		for first := 0; first < count; first += step {
			end := first + step
			if end > count {
				end = count
			}
			s.enqueueAll(first, end, payload)
		}
	}
	check(s.db.Sync())
	if kind == "killed" {
		// As in the Rust crate, the last job follows a sync.
		s.db.NoSync = false
		s.enqueue(runID(count-1), payload)
	}
	if strings.HasSuffix(kind, "killed") {
		check(syscall.Kill(os.Getpid(), syscall.SIGKILL))
		select {}
	}
	s.close()
}

func churnBuffered(s *state, pairs int) {
	const step = 10
	s.enqueueAll(0, live, payload)
	for first := 0; first < pairs; first += step {
		s.enqueueAll(first+live, first+live+step, payload)
		s.ackAll(first, first+step)
	}
}
