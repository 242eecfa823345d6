package kept

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"example.com/predserver/gateway/internal/testkit"
)

func TestFilesAreReadAgainWhenTheyChangeAndAreWhole(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	testkit.WriteFile(t, path, "one")
	log := &testkit.LockedBuffer{}
	read := func() (string, error) {
		data, err := Read(path)
		if string(data) == "broken" {
			return "", errors.New("it is broken")
		}
		return string(data), err
	}
	v, err := first("the file", slog.New(slog.NewTextHandler(log, nil)), read, path)
	if err != nil {
		t.Fatal(err)
	}
	want := func(text string, broken bool) {
		t.Helper()
		if got := v.Get(); got != text {
			t.Errorf("got %q, want %q", got, text)
		}
		if v.Broken() != broken {
			t.Errorf("broken: %v, want %v", v.Broken(), broken)
		}
	}
	testkit.WriteFile(t, path, "longer")
	want("one", false)
	v.look()
	want("one", false) // it may be half written
	v.look()
	want("longer", false)

	testkit.WriteFile(t, path, "broken")
	v.look()
	want("longer", false)
	v.look()
	want("longer", true)
	for range 3 {
		v.look()
		want("longer", true)
	}
	if n := strings.Count(log.String(), "it is broken"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	v.look()
	want("longer", true)
	v.look()
	want("longer", true)

	testkit.WriteFile(t, path, "mended")
	v.look()
	want("longer", true)
	v.look()
	want("mended", false)
}

// A token that was revoked an hour ago is not taken once more because nobody has asked since.
func TestChangesAreSeenWhetherAnybodyAsksOrNot(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	testkit.WriteFile(t, path, "one")
	log := &testkit.LockedBuffer{}
	v, err := New("the file", slog.New(slog.NewTextHandler(log, nil)), func() ([]byte, error) { return Read(path) }, path)
	if err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, path, "longer")
	testkit.Eventually(t, "the file is read again", func() bool { return strings.Contains(log.String(), "in use now") })
	if got := string(v.Get()); got != "longer" {
		t.Errorf("got %q", got)
	}
}

func TestNobodyLooksAfterWhatNobodyHas(t *testing.T) {
	var gone atomic.Bool
	v, err := New("no files", slog.Default(), func() (*int, error) { return new(int), nil })
	if err != nil {
		t.Fatal(err)
	}
	runtime.AddCleanup(v, func(int) { gone.Store(true) }, 0)
	testkit.Eventually(t, "the value goes", func() bool {
		runtime.GC()
		return gone.Load()
	})
}

func TestNobodyWaitsWhileFilesAreRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	testkit.WriteFile(t, path, "one")
	reads, begun, release := 0, make(chan bool), make(chan bool)
	v, err := first("the file", slog.New(slog.DiscardHandler), func() (int, error) {
		if reads++; reads > 1 {
			begun <- true
			<-release
		}
		return reads, nil
	}, path)
	if err != nil {
		t.Fatal(err)
	}
	testkit.WriteFile(t, path, "longer")
	v.look()
	looked := make(chan bool)
	go func() {
		v.look()
		close(looked)
	}()
	testkit.Receive(t, "the second read", begun)
	got := make(chan int, 1)
	go func() { got <- v.Get() }()
	if got := testkit.Receive(t, "what is in use meanwhile", got); got != 1 || v.Broken() {
		t.Errorf("got %d, broken %v", got, v.Broken())
	}
	close(release)
	testkit.Receive(t, "the end of the read", looked)
	if got := v.Get(); got != 2 {
		t.Errorf("got %d", got)
	}
}

func TestFilesThatCannotBeUsedAtFirst(t *testing.T) {
	missing := filepath.Join(t.TempDir(), "missing")
	_, err := New("the file", slog.Default(), func() ([]byte, error) { return Read(missing) }, missing)
	if err == nil || !strings.Contains(err.Error(), "the file ("+missing+") cannot be used") {
		t.Error(err)
	}
	large := filepath.Join(t.TempDir(), "large")
	testkit.WriteFile(t, large, strings.Repeat(" ", mostBytes+1))
	if _, err := Read(large); err == nil || !strings.Contains(err.Error(), "too large") {
		t.Error(err)
	}
	marked := filepath.Join(t.TempDir(), "marked")
	testkit.WriteFile(t, marked, "\uFEFF-----BEGIN CERTIFICATE-----")
	if _, err := Read(marked); err == nil || !strings.Contains(err.Error(), marked+" begins with a byte order mark; save it without") {
		t.Error(err)
	}
}
