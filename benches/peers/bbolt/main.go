// The peer bbolt: the same workloads as in the Rust crate next to it, by the same names, one figure per process.
//
//	peers-bbolt run WORKLOAD ENGINE FOLDER
//
// Values are sealed with AES-256-GCM by the standard library.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"sort"
	"time"
)

type figure map[string]float64

var workloads = map[string]func(folder string, batched bool) figure{
	"enqueue-512":       func(folder string, _ bool) figure { return enqueue(folder, 512, 500) },
	"enqueue-8k":        func(folder string, _ bool) figure { return enqueue(folder, 8<<10, 250) },
	"enqueue-8-threads": eightThreads,
	"heartbeat":         heartbeat,
	"log":               logAppend,
	"drain":             drain,
	"churn":             churn,
	"batch-durable":     batch,
	"dequeue":           dequeue,
	"config":            config,
	"open-1k":           func(folder string, _ bool) figure { return open(folder, "live-1000") },
	"open-10k":          func(folder string, _ bool) figure { return open(folder, "live-10000") },
	"open-100k":         func(folder string, _ bool) figure { return open(folder, "live-100000") },
	"open-killed":       func(folder string, _ bool) figure { return open(folder, "killed-100000") },
	"open-dead":         func(folder string, _ bool) figure { return open(folder, "dead-100000") },
	"open-dead-again":   func(folder string, _ bool) figure { return openAgain(folder, "dead-100000") },
	"open-dead-killed":  func(folder string, _ bool) figure { return open(folder, "dead_killed-100000") },
	"memory":            memory,
	"device":            deviceBytes,
	"file-5k":           func(folder string, _ bool) figure { return filesLen(folder, 5_000) },
	"file-50k":          func(folder string, _ bool) figure { return filesLen(folder, 50_000) },
	"idle":              idle,
}

func main() {
	switch args := os.Args[1:]; {
	case len(args) == 4 && args[0] == "run" && workloads[args[1]] != nil:
		line, err := json.Marshal(workloads[args[1]](args[3], args[2] == "bbolt Batch"))
		check(err)
		fmt.Println(string(line))
	case len(args) == 4 && args[0] == "prepare":
		prepare(args[1], args[3])
	default:
		fmt.Fprintln(os.Stderr, "usage: peers-bbolt run WORKLOAD ENGINE FOLDER")
		os.Exit(2)
	}
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

const (
	short = 1500 * time.Millisecond
	// For workloads that include an engine's periodic work, such as compaction.
	long     = 4 * time.Second
	callsMin = 100
)

// timeCalls stops after count calls or when the time is over, so that a slow disk does not make a run take an
// hour.
func timeCalls(count int, most time.Duration, call func(i int)) figure {
	each := make([]time.Duration, 0, count)
	begun := time.Now()
	for i := 0; i < count; i++ {
		callBegun := time.Now()
		call(i)
		each = append(each, time.Since(callBegun))
		if i >= callsMin && time.Since(begun) > most {
			break
		}
	}
	return calls(each, time.Since(begun))
}

func calls(each []time.Duration, took time.Duration) figure {
	sort.Slice(each, func(a, b int) bool { return each[a] < each[b] })
	percentile := func(n int) float64 { return each[(len(each)-1)*n/100].Seconds() }
	return figure{
		"seconds": took.Seconds() / float64(len(each)),
		"p50":     percentile(50),
		"p99":     percentile(99),
		"count":   float64(len(each)),
	}
}

func average(count int, call func()) figure {
	for i := 0; i < count/10; i++ {
		call()
	}
	begun := time.Now()
	for i := 0; i < count; i++ {
		call()
	}
	return figure{"seconds": time.Since(begun).Seconds() / float64(count)}
}
