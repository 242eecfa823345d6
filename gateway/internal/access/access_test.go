package access

import (
	"encoding/pem"
	"log/slog"
	"os"
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
		"\uFEFFweb " + secret:              "begins with a byte order mark",
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
	write := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		testkit.WriteFile(t, path, text)
		return path
	}
	own, err := os.ReadFile(cert)
	if err != nil {
		t.Fatal(err)
	}
	authority, err := os.ReadFile(ca.File)
	if err != nil {
		t.Fatal(err)
	}
	wrongOrder := write("chain.pem", string(authority)+string(own))
	marked := write("marked.pem", "\uFEFF"+string(own))
	pkcs8 := write("pkcs8.pem", string(pem.EncodeToMemory(&pem.Block{Type: "ENCRYPTED PRIVATE KEY", Bytes: []byte("secret")})))
	openSSL := write("openssl.pem", string(pem.EncodeToMemory(&pem.Block{
		Type: "EC PRIVATE KEY", Bytes: []byte("secret"), Headers: map[string]string{"Proc-Type": "4,ENCRYPTED", "DEK-Info": "AES-256-CBC,00"},
	})))
	if _, err := ReadCertificate(cert, key, slog.Default()); err != nil {
		t.Error(err)
	}
	for name, pair := range map[string][2]string{
		"does not match": {cert, otherKey}, "valid from": {oldCert, oldKey}, "no such file": {cert, key + "x"},
		"failed to find": {key, cert}, "own certificate comes first in the file": {wrongOrder, key},
		"the key has a passphrase, which nobody could type when the server starts; store it without": {cert, pkcs8}, "store it without": {cert, openSSL},
		"byte order mark": {marked, key},
	} {
		if _, err := ReadCertificate(pair[0], pair[1], slog.Default()); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
