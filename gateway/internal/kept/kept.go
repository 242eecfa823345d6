// Package kept holds what files say, and reads them again when they change. A file that is broken then changes nothing:
// what it held before stays in use.
package kept

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"strings"
	"sync"
	"time"
	"weak"
)

// pause is how long it takes from one look whether a file has changed to the next. A file is read once it was the same in
// two looks: certificate and key are seldom written at one moment.
const pause = time.Second

// mostBytes is the size of the largest file that is read.
const mostBytes = 4 << 20

// Value is what some files hold.
type Value[T any] struct {
	what  string
	paths []string
	read  func() (T, error)
	log   *slog.Logger

	seen, tried []os.FileInfo // of look alone

	mu     sync.Mutex // never held while files are read: each request needs it
	value  T
	broken bool
}

// New reads files for the first time, and looks after them from then on. What names them in the log; read must not show in
// an error what they hold.
func New[T any](what string, log *slog.Logger, read func() (T, error), paths ...string) (*Value[T], error) {
	v, err := first(what, log, read, paths...)
	if err == nil {
		go watch(weak.Make(v))
	}
	return v, err
}

// watch looks whether anybody asks or not: the first request after a quiet hour must not find what held an hour ago. It
// ends when nobody has the value any more.
func watch[T any](p weak.Pointer[Value[T]]) {
	for range time.Tick(pause) {
		v := p.Value()
		if v == nil {
			return
		}
		v.look()
	}
}

// first is New without the looks.
func first[T any](what string, log *slog.Logger, read func() (T, error), paths ...string) (*Value[T], error) {
	v := &Value[T]{what: what, paths: paths, read: read, log: log}
	v.seen = v.stamp()
	v.tried = v.seen
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
	return v.value
}

// Broken reports whether the files have changed so that they cannot be used.
func (v *Value[T]) Broken() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.broken
}

// look reads the files again if they have changed. One goroutine calls it.
func (v *Value[T]) look() {
	stamp := v.stamp()
	unchanged := same(stamp, v.seen)
	v.seen = stamp
	if !unchanged || same(stamp, v.tried) {
		return
	}
	v.tried = stamp
	value, err := v.read()
	v.mu.Lock()
	if v.broken = err != nil; err == nil {
		v.value = value
	}
	v.mu.Unlock()
	if err != nil {
		v.log.Error("changed files cannot be used; what they held before stays in use", slog.String("files", v.String()), slog.Any("error", err))
		return
	}
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
	if bytes.HasPrefix(data, []byte("\xEF\xBB\xBF")) { // no reader of PEM or of tokens knows what that is
		err = errors.New(path + " begins with a byte order mark; save it without one")
	}
	return data, err
}
