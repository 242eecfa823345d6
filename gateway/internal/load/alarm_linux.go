package load

import (
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// alarm wakes a goroutine on time. time.Sleep, in an idle program, may be a millisecond late: it waits in epoll, which
// counts milliseconds. This one is a file that epoll finds readable when the time has come, to a few microseconds.
type alarm struct {
	fd   int
	file *os.File
}

func newAlarm() alarm {
	fd, err := unix.TimerfdCreate(unix.CLOCK_MONOTONIC, unix.TFD_NONBLOCK|unix.TFD_CLOEXEC)
	if err != nil {
		panic(err)
	}
	return alarm{fd, os.NewFile(uintptr(fd), "alarm")}
}

func (a alarm) sleep(d time.Duration) {
	if err := unix.TimerfdSettime(a.fd, 0, &unix.ItimerSpec{Value: unix.NsecToTimespec(int64(d))}, nil); err != nil {
		panic(err)
	}
	var expired [8]byte
	if _, err := a.file.Read(expired[:]); err != nil {
		panic(err)
	}
}

func (a alarm) close() { a.file.Close() }
