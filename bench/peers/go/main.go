// Locks on Redis in Go with their defaults, as workers of the benches; see bench/src/crew/mod.rs.
// The first argument is redsync or redislock, the others are the orders.
package main

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/bsm/redislock"
	"github.com/go-redsync/redsync/v4"
	"github.com/go-redsync/redsync/v4/redis/goredis/v9"
	"github.com/redis/go-redis/v9"
	"golang.org/x/sys/unix"
)

// A lock of one key: takes it, and returns what gives it back.
type lock func() func()

func now() int64 {
	var at unix.Timespec
	check(unix.ClockGettime(unix.CLOCK_MONOTONIC, &at))
	return at.Nano()
}

func check(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func locks(library string, client *redis.Client, ttl time.Duration) func(key string) lock {
	ctx := context.Background()
	if library == "redsync" {
		pool := redsync.New(goredis.NewPool(client))
		return func(key string) lock {
			mutex := pool.NewMutex(key, redsync.WithExpiry(ttl), redsync.WithTries(1<<30))
			return func() func() {
				check(mutex.Lock())
				return func() { _, err := mutex.Unlock(); check(err) }
			}
		}
	}
	locker := redislock.New(client)
	options := &redislock.Options{RetryStrategy: redislock.LinearBackoff(100 * time.Millisecond)}
	return func(key string) lock {
		return func() func() {
			for {
				held, err := locker.Obtain(ctx, key, ttl, options)
				if errors.Is(err, redislock.ErrNotObtained) || errors.Is(err, context.DeadlineExceeded) {
					continue
				}
				check(err)
				return func() { check(held.Release(ctx)) }
			}
		}
	}
}

func main() {
	library, at, key := os.Args[1], os.Args[2], os.Args[3]
	var n [7]int64
	for i := range n {
		number, err := strconv.ParseInt(os.Args[4+i], 10, 64)
		check(err)
		n[i] = number
	}
	first, workers, ownKeys, hold, away, spread, ttl := n[0], n[1], n[2] != 0, n[3], n[4], n[5], time.Duration(n[6])
	options, err := redis.ParseURL(at)
	check(err)
	lockOf := locks(library, redis.NewClient(options), ttl)
	lockOf(fmt.Sprintf("%s/warm/%d", key, first))()()
	fmt.Println("ready")
	line, err := bufio.NewReader(os.Stdin).ReadString('\n')
	check(err)
	var start, end int64
	_, err = fmt.Sscan(line, &start, &end)
	check(err)
	time.Sleep(time.Duration(start - now()))
	notes := make([][]byte, workers)
	var all sync.WaitGroup
	for i := int64(0); i < workers; i++ {
		all.Add(1)
		go func() {
			defer all.Done()
			name := key
			if ownKeys {
				name = fmt.Sprintf("%s/%d", key, first+i)
			}
			take := lockOf(name)
			time.Sleep(time.Duration(spread * i / workers))
			for now() < end {
				asked := now()
				give := take()
				had := now()
				time.Sleep(time.Duration(min(hold, end-had)))
				released := now()
				give()
				for _, word := range []int64{first + i, asked, had, released} {
					notes[i] = binary.LittleEndian.AppendUint64(notes[i], uint64(word))
				}
				time.Sleep(time.Duration(min(away, end-released)))
			}
		}()
	}
	all.Wait()
	file, err := os.Create(os.Args[11])
	check(err)
	for _, note := range notes {
		_, err = file.Write(note)
		check(err)
	}
	check(file.Close())
}
