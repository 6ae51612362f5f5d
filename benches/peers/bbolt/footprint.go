package main

import (
	"bufio"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func memory(folder string, _ bool) figure {
	prepareInChild("live-100000", folder)
	before := procField("/proc/self/status", "RssAnon:")
	s := openState(folder)
	expect(len(s.dequeue(100)), 100)
	grown := procField("/proc/self/status", "RssAnon:") - before
	s.close()
	return figure{"bytes": grown * 1024}
}

func deviceBytes(folder string, _ bool) figure {
	const pairs = 1500
	s := openState(folder)
	defer s.close()
	s.enqueueAll(0, live, payload)
	before := bytesWritten(folder)
	calls := timeCalls(pairs, long, func(i int) {
		s.enqueue(runID(i+live), payload)
		s.ack(runID(i))
	})
	return figure{"ratio": (bytesWritten(folder) - before) / (calls["count"] * float64(len(payload)))}
}

// bytesWritten is how much was written to the disk that the folder is on, as in the Rust crate.
func bytesWritten(folder string) float64 {
	var stat syscall.Stat_t
	check(syscall.Stat(folder, &stat))
	major := stat.Dev>>8&0xfff | stat.Dev>>32&^0xfff
	minor := stat.Dev&0xff | stat.Dev>>12&0xffffff00
	text, err := os.ReadFile(fmt.Sprintf("/sys/dev/block/%d:%d/stat", major, minor))
	check(err)
	sectors, err := strconv.ParseFloat(strings.Fields(string(text))[6], 64)
	check(err)
	return sectors * 512
}

func filesLen(folder string, pairs int) figure {
	s := openState(folder)
	defer s.close()
	s.db.NoSync = true
	churnBuffered(s, pairs)
	total := int64(0)
	check(filepath.Walk(folder, func(_ string, info os.FileInfo, err error) error {
		if err == nil && !info.IsDir() {
			total += info.Size()
		}
		return err
	}))
	return figure{"bytes": float64(total)}
}

func idle(folder string, _ bool) figure {
	prepareInChild("live-10", folder)
	const status = "/proc/self/status"
	memory, threads := procField(status, "RssAnon:"), procField(status, "Threads:")
	s := openState(folder)
	grown := procField(status, "RssAnon:") - memory
	time.Sleep(100 * time.Millisecond)
	before := switches()
	time.Sleep(2 * time.Second)
	woken := switches() - before - 1
	threads = procField(status, "Threads:") - threads
	s.close()
	return figure{"bytes": grown * 1024, "threads": threads, "wakeups": woken}
}

func switches() (sum float64) {
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	check(err)
	for _, task := range tasks {
		sum += procField(task, "voluntary_ctxt_switches:")
	}
	return sum
}

func procField(path, name string) float64 {
	file, err := os.Open(path)
	check(err)
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		if rest := strings.TrimPrefix(lines.Text(), name); rest != lines.Text() {
			value, err := strconv.ParseFloat(strings.Fields(rest)[0], 64)
			check(err)
			return value
		}
	}
	panic(name)
}
