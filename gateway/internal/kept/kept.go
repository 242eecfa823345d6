// Package kept holds what files say, and reads them again when they change. A file that is broken then changes nothing:
// what it held before stays in use.
package kept

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
)

// look is how often Get looks whether a file has changed. A file is read once it was the same in two looks: certificate and
// key are seldom written at one moment.
const look = time.Second

// mostBytes is the size of the largest file that is read.
const mostBytes = 4 << 20

// Value is what some files hold.
type Value[T any] struct {
	what  string
	paths []string
	read  func() (T, error)
	log   *slog.Logger
	now   func() time.Time // time.Now, but in tests

	mu          sync.Mutex
	value       T
	looked      time.Time
	seen, tried []os.FileInfo
	broken      bool
}

// New reads files for the first time. What names them in the log; read must not show in an error what they hold.
func New[T any](what string, log *slog.Logger, read func() (T, error), paths ...string) (*Value[T], error) {
	v := &Value[T]{what: what, paths: paths, read: read, log: log, now: time.Now}
	v.seen = v.stamp()
	v.tried = v.seen
	v.looked = v.now()
	var err error
	if v.value, err = read(); err != nil {
		return nil, fmt.Errorf("%s cannot be used: %w", v, err)
	}
	return v, nil
}

// String names the files.
func (v *Value[T]) String() string {
	return fmt.Sprintf("%s (%s)", v.what, strings.Join(v.paths, ", "))
}

// Get returns what the files held when they were last in order.
func (v *Value[T]) Get() T {
	v.mu.Lock()
	defer v.mu.Unlock()
	if now := v.now(); now.Sub(v.looked) >= look {
		v.looked = now
		v.look()
	}
	return v.value
}

// Broken reports whether the files have changed so that they cannot be used.
func (v *Value[T]) Broken() bool {
	v.Get()
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.broken
}

func (v *Value[T]) look() {
	stamp := v.stamp()
	unchanged := same(stamp, v.seen)
	v.seen = stamp
	if !unchanged || same(stamp, v.tried) {
		return
	}
	v.tried = stamp
	value, err := v.read()
	v.broken = err != nil
	if err != nil {
		v.log.Error("changed files cannot be used; what they held before stays in use", slog.String("files", v.String()), slog.Any("error", err))
		return
	}
	v.value = value
	v.log.Warn("changed files are in use now", slog.String("files", v.String()))
}

// stamp returns what changes with the files; nil for one that is missing. A link may lead to another file from one moment
// to the next.
func (v *Value[T]) stamp() []os.FileInfo {
	stamp := make([]os.FileInfo, len(v.paths))
	for i, path := range v.paths {
		stamp[i], _ = os.Stat(path)
	}
	return stamp
}

// same reports whether the files are as they were. Two that were written within one tick of the clock differ by their place.
func same(a, b []os.FileInfo) bool {
	return slices.EqualFunc(a, b, func(a, b os.FileInfo) bool {
		if a == nil || b == nil {
			return a == b
		}
		return a.ModTime().Equal(b.ModTime()) && a.Size() == b.Size() && os.SameFile(a, b)
	})
}

// Read returns a file's content. Its errors name the file.
func Read(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	data, err := io.ReadAll(io.LimitReader(file, mostBytes+1))
	if err == nil && len(data) > mostBytes {
		err = errors.New(path + " is too large")
	}
	return data, err
}
