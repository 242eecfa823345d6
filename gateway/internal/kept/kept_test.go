package kept

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/predserver/gateway/internal/testkit"
)

// later has the next Get look at the files again.
func (v *Value[T]) later(by time.Duration) {
	before := v.now
	v.now = func() time.Time { return before().Add(by) }
}

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
	v, err := New("the file", slog.New(slog.NewTextHandler(log, nil)), read, path)
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
	want("one", false) // less than a second has passed
	v.later(look)
	want("one", false) // it may be half written
	v.later(look)
	want("longer", false)

	testkit.WriteFile(t, path, "broken")
	v.later(look)
	want("longer", false)
	v.later(look)
	want("longer", true)
	for range 3 {
		v.later(look)
		want("longer", true)
	}
	if n := strings.Count(log.String(), "it is broken"); n != 1 {
		t.Errorf("logged %d times:\n%s", n, log)
	}

	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	v.later(look)
	want("longer", true)
	v.later(look)
	want("longer", true)

	testkit.WriteFile(t, path, "mended")
	v.later(look)
	want("longer", true)
	v.later(look)
	want("mended", false)
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
}
