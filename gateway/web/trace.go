package web

import (
	"context"
	"net/http"
	"regexp"
	"strings"

	"google.golang.org/grpc/metadata"
)

// traceForm is the traceparent of https://www.w3.org/TR/trace-context/: version, trace, span and flags. A version to come
// may say more behind them.
var traceForm = regexp.MustCompile(`^([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-[0-9a-f]{2}(-.*)?$`)

// maxTrace is the longest traceparent, and the longest tracestate, that is passed on.
const maxTrace = 512

// traced passes the trace that a client works on to the prediction server, and returns its id for the log. What is
// malformed stays here. A client that works on no trace gets none: the request id joins both logs already.
func traced(ctx context.Context, header http.Header) (_ context.Context, id string) {
	parents := header.Values("Traceparent")
	if len(parents) != 1 || len(parents[0]) > maxTrace || !printable(parents[0]) {
		return ctx, ""
	}
	parts := traceForm.FindStringSubmatch(parents[0])
	switch {
	case parts == nil, parts[1] == "ff", parts[1] == "00" && parts[4] != "",
		parts[2] == "00000000000000000000000000000000", parts[3] == "0000000000000000":
		return ctx, ""
	}
	ctx = metadata.AppendToOutgoingContext(ctx, "traceparent", parents[0])
	// Of this header there may be several, which are one list.
	if state := strings.Join(header.Values("Tracestate"), ","); state != "" && len(state) <= maxTrace && printable(state) {
		ctx = metadata.AppendToOutgoingContext(ctx, "tracestate", state)
	}
	return ctx, parts[2]
}
