package web

import (
	"errors"
	"net/http"
	"strings"
	"testing"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/protoadapt"
	"google.golang.org/protobuf/types/known/durationpb"

	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/testkit"
	"example.com/predserver/gateway/pred"
)

func TestEveryCodeHasItsStatus(t *testing.T) {
	const secret = "Traceback: /srv/model.py"
	tests := []struct {
		code   codes.Code
		status int
		name   string
		hidden bool // the message is for the log alone
	}{
		{codes.Canceled, 429, "RESOURCE_EXHAUSTED", true}, // by the server: this client has not gone away
		{codes.Unknown, 502, "UNKNOWN", true},
		{codes.InvalidArgument, 400, "INVALID_ARGUMENT", false},
		{codes.DeadlineExceeded, 504, "DEADLINE_EXCEEDED", true},
		{codes.NotFound, 404, "NOT_FOUND", false},
		{codes.AlreadyExists, 409, "ALREADY_EXISTS", false},
		{codes.PermissionDenied, 502, "PERMISSION_DENIED", true},
		{codes.ResourceExhausted, 429, "RESOURCE_EXHAUSTED", false},
		{codes.FailedPrecondition, 400, "FAILED_PRECONDITION", false},
		{codes.Aborted, 409, "ABORTED", false},
		{codes.OutOfRange, 400, "OUT_OF_RANGE", false},
		{codes.Unimplemented, 502, "UNIMPLEMENTED", true},
		{codes.Internal, 502, "INTERNAL", true},
		{codes.Unavailable, 503, "UNAVAILABLE", true},
		{codes.DataLoss, 502, "DATA_LOSS", true},
		{codes.Unauthenticated, 502, "UNAUTHENTICATED", true},
		{codes.Code(99), 502, "UNKNOWN", true},
	}
	for _, test := range tests {
		t.Run(test.code.String(), func(t *testing.T) {
			address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Failing(status.Error(test.code, secret)))
			g := startGateway(t, address)
			inMessage := secret
			if test.hidden {
				inMessage = ""
			}
			r := g.Post(t, "x\n1\n")
			testkit.WantError(t, r, test.status, test.name, inMessage)
			if test.hidden && strings.Contains(r.Body, secret) {
				t.Errorf("the web sees %s", r.Body)
			}
			logged := secret
			if test.code == codes.Canceled {
				logged = "dropped the call"
			}
			testkit.Eventually(t, "a line in the log that has the message", func() bool { return strings.Contains(g.Log.String(), logged) })
		})
	}
	if len(answers) != 17 {
		t.Errorf("the table has %d codes, gRPC has 17", len(answers))
	}
}

// saysOK is an error whose status says that there is none.
type saysOK struct{ error }

func (saysOK) GRPCStatus() *status.Status { return status.New(codes.OK, "") }

func TestErrorThatSaysOK(t *testing.T) {
	for _, err := range []error{saysOK{}, saysOK{errors.New("odd")}} {
		if e := fromServer(pred.FromError(err)); e.Status < 500 || e.Message == "" {
			t.Errorf("%#v became %+v", err, e)
		}
	}
	if answers[codes.OK].status != http.StatusInternalServerError {
		t.Errorf("OK is %d", answers[codes.OK].status)
	}
}

func TestResourceExhausted(t *testing.T) {
	info := func(reason string) protoadapt.MessageV1 {
		return &errdetails.ErrorInfo{Reason: reason, Domain: "pred-server", Metadata: map[string]string{"limit": "2", "flag": "--max-rows"}}
	}
	tests := []struct {
		name       string
		message    string
		details    []protoadapt.MessageV1
		status     int
		retryAfter string
	}{
		{"says too large", "3000000 rows are too many", []protoadapt.MessageV1{info("TOO_LARGE")}, 413, ""},
		{"says overloaded", "the queue is full", []protoadapt.MessageV1{info("OVERLOADED")}, 429, "1"},
		{"overloaded wins over words", "queue larger than max", []protoadapt.MessageV1{info("OVERLOADED")}, 429, "1"},
		{"says when to come back", "the queue is full",
			[]protoadapt.MessageV1{info("OVERLOADED"), &errdetails.RetryInfo{RetryDelay: durationpb.New(2500 * time.Millisecond)}}, 429, "3"},
		{"grpc-go receives", "grpc: received message larger than max (5 vs. 4)", nil, 413, ""},
		{"grpc-go sends", "trying to send message larger than max (5 vs. 4)", nil, 413, ""},
		{"Python receives", "SERVER: Received message larger than max (5 vs. 4)", nil, 413, ""},
		{"Python sends", "SERVER: Sent message larger than max (5 vs. 4)", nil, 413, ""},
		{"says nothing", "try later", nil, 429, "1"},
		{"another reason", "try later", []protoadapt.MessageV1{info("QUOTA")}, 429, "1"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			st, err := status.New(codes.ResourceExhausted, test.message).WithDetails(test.details...)
			if err != nil {
				t.Fatal(err)
			}
			address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Failing(st.Err()))
			r := startGateway(t, address).Post(t, "x\n1\n")
			testkit.WantError(t, r, test.status, "RESOURCE_EXHAUSTED", "")
			if got := r.Header.Get("Retry-After"); got != test.retryAfter {
				t.Errorf("Retry-After %q, want %q", got, test.retryAfter)
			}
		})
	}
}

func TestViolationsArePassedOn(t *testing.T) {
	st, err := status.New(codes.InvalidArgument, "2 columns are missing").WithDetails(&errdetails.BadRequest{
		FieldViolations: []*errdetails.BadRequest_FieldViolation{
			{Field: "dest", Description: "missing"}, {Field: "\"origin\"\n", Description: "missing, too"},
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	address, _ := testkit.StartFake(t, "127.0.0.1:0", testkit.Failing(st.Err()))
	e := testkit.WantError(t, startGateway(t, address).Post(t, "x\n1\n"), 400, "INVALID_ARGUMENT", "2 columns are missing")
	want := []problem.Violation{{Field: "dest", Description: "missing"}, {Field: "\"origin\"\n", Description: "missing, too"}}
	if len(e.Error.Violations) != 2 || e.Error.Violations[0] != want[0] || e.Error.Violations[1] != want[1] {
		t.Errorf("violations %v, want %v", e.Error.Violations, want)
	}
}
