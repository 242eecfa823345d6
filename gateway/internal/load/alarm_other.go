//go:build !linux

package load

import "time"

// alarm wakes a goroutine, up to a millisecond late on some systems.
type alarm struct{}

func newAlarm() alarm { return alarm{} }

func (alarm) sleep(d time.Duration) { time.Sleep(d) }

func (alarm) close() {}
