package access

import (
	"log/slog"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"example.com/predserver/gateway/internal/testkit"
)

const secret = "correct-horse-battery-staple"

func TestTokens(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokens")
	testkit.WriteFile(t, path, "# of the web team\n\nweb "+secret+"\r\nweb another-one-of-the-web~\nops   0123456789abcdef==")
	tokens, err := ReadTokens(path, slog.Default())
	if err != nil {
		t.Fatal(err)
	}
	for token, want := range map[string]string{
		secret: "web", "another-one-of-the-web~": "web", "0123456789abcdef==": "ops",
		"": "", secret[:len(secret)-1]: "", secret + "x": "", strings.ToUpper(secret): "", "web": "", " " + secret: "",
	} {
		if name, known := tokens.Name(token); name != want || known != (want != "") {
			t.Errorf("%q: %q %v, want %q", token, name, known, want)
		}
	}
}

func TestTokensThatAreRefusedAreNotShown(t *testing.T) {
	for text, sentence := range map[string]string{
		"":                                 "0 tokens",
		"# web " + secret:                  "0 tokens",
		secret:                             "line 1: NAME TOKEN is needed",
		"\nweb " + secret + " x":           "line 2: NAME TOKEN is needed",
		"we:b " + secret:                   "line 1: NAME TOKEN is needed",
		"web " + secret[:15]:               "line 1: a token has 16 to 1024 characters",
		"web " + secret + "é":              "line 1: a token has 16 to 1024 characters",
		"a " + secret + "\nb " + secret:    "line 2: this token stands in the file twice",
		"web " + secret + "\xff":           "not text in UTF-8",
		strings.Repeat("web x\n", 1):       "line 1: a token has",
		"web " + strings.Repeat("a", 1025): "line 1: a token has",
	} {
		path := filepath.Join(t.TempDir(), "tokens")
		testkit.WriteFile(t, path, text)
		_, err := ReadTokens(path, slog.Default())
		if err == nil || !strings.Contains(err.Error(), sentence) || strings.Contains(err.Error(), secret[:15]) {
			t.Errorf("%q: %v", text, err)
		}
	}
}

func TestCertificatesThatAreRefused(t *testing.T) {
	ca := testkit.NewAuthority(t)
	cert, key := ca.Issue(t, time.Hour, "localhost")
	_, otherKey := ca.Issue(t, time.Hour, "localhost")
	oldCert, oldKey := ca.Issue(t, -time.Hour, "localhost")
	if _, err := ReadCertificate(cert, key, slog.Default()); err != nil {
		t.Error(err)
	}
	for name, pair := range map[string][2]string{
		"does not match": {cert, otherKey}, "valid from": {oldCert, oldKey}, "no such file": {cert, key + "x"},
		"failed to find": {key, cert},
	} {
		if _, err := ReadCertificate(pair[0], pair[1], slog.Default()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
