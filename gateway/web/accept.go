package web

import (
	"mime"
	"net/http"
	"strconv"
	"strings"
)

// wantsPage reports whether a client is to get a page rather than JSON: unless it prefers JSON, as programs that say what
// they read do. (RFC 9110, 12.5.1)
func wantsPage(header http.Header) bool {
	accept := strings.Join(header.Values("Accept"), ",")
	return quality(accept, "text", "html") >= quality(accept, "application", "json")
}

// quality returns how much a client wants a media type, from 0 to 1. The range that fits it best counts.
func quality(accept, kind, subtype string) float64 {
	if strings.TrimSpace(accept) == "" {
		return 1
	}
	best, fit := 0.0, 0
	for part := range strings.SplitSeq(accept, ",") {
		media, parameters, err := mime.ParseMediaType(part)
		if err != nil {
			continue
		}
		precision := map[string]int{kind + "/" + subtype: 3, kind + "/*": 2, "*/*": 1}[media]
		if precision <= fit {
			continue
		}
		fit, best = precision, 1
		if q, err := strconv.ParseFloat(parameters["q"], 64); err == nil {
			best = q
		}
	}
	return best
}
