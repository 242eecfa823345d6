//go:build unix

package load

import (
	"errors"
	"net"
	"syscall"
	"time"
)

// cpuTime returns how long this process has computed, in all its threads, for itself and in the kernel.
func cpuTime() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// closedByPeer reports whether the other end has closed a connection on which nothing is expected. It does not wait.
func closedByPeer(connection net.Conn) bool {
	control, err := connection.(syscall.Conn).SyscallConn()
	if err != nil {
		return true
	}
	closed := false
	err = control.Read(func(fd uintptr) bool {
		var one [1]byte
		n, _, err := syscall.Recvfrom(int(fd), one[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
		closed = n > 0 || !errors.Is(err, syscall.EAGAIN) // what comes unasked is no reply either
		return true
	})
	return closed || err != nil
}
