package web

import (
	"strings"
	"time"
)

// Ended is what a request came to.
type Ended struct {
	Route   string        // such as "/predict" or "/models/{name}"; all paths that are not there are "other"
	Status  int           // of the reply; of one that was broken off, what had been sent by then
	Code    string        // gRPC's name for the error, or "OK"
	Reason  string        // of the error, for a program to read, such as OVERLOADED; may be empty
	Took    time.Duration // from the header to the end of the reply
	Backend time.Duration // of it, the call of the prediction server; 0 if it was not asked
}

// Load is what a handler has to do at the moment.
type Load struct {
	Requests    int   // for which the prediction server is asked
	MaxRequests int   // the most of these
	Held        int64 // bytes that all requests hold together
	MaxHeld     int64 // the most of these
}

// Load returns what the handler has to do at the moment.
func (h *Handler) Load() Load {
	return Load{h.slots.Taken(), h.options.MaxRequests, h.held.Held(), h.options.maxBytesHeld()}
}

// route returns the pattern that a request matched as Ended has it: as few as there are.
func route(pattern string) string {
	path := pattern[strings.Index(pattern, " ")+1:] // without the method, if the pattern has one
	switch path {
	case "/":
		return "other"
	case "/{$}":
		return "/"
	}
	return path
}
