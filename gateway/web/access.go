package web

import (
	"net/http"
	"strings"

	"google.golang.org/grpc/codes"

	"example.com/predserver/gateway/internal/problem"
)

// authorize returns the name of a request's token, or an error and what the reply's header says then (RFC 6750).
func (h *Handler) authorize(r *http.Request) (name string, header http.Header, err error) {
	sent := r.Header.Values("Authorization")
	var scheme, token string
	if len(sent) == 1 {
		scheme, token, _ = strings.Cut(sent[0], " ")
	}
	challenge := `Bearer realm="predictions"`
	if !strings.EqualFold(scheme, "Bearer") {
		err = problem.Refusal(http.StatusUnauthorized, codes.Unauthenticated,
			"The gateway asks for a token: send the header Authorization: Bearer TOKEN.")
	} else if name, known := h.options.Authorize(strings.TrimSpace(token)); known {
		return name, nil, nil
	} else {
		challenge += `, error="invalid_token"`
		err = problem.Refusal(http.StatusUnauthorized, codes.Unauthenticated, "The token is none of the gateway's.")
	}
	return "", http.Header{"Www-Authenticate": {challenge}}, err
}
