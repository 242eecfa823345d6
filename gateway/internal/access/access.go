// Package access says who may ask a gateway, and what certificate it shows.
package access

import (
	"crypto/sha256"
	"crypto/subtle"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"regexp"
	"strings"
	"time"
	"unicode/utf8"

	"example.com/predserver/gateway/internal/kept"
)

// All tokens are compared with each request's.
const (
	maxTokens = 1000
	minToken  = 16 // characters
	maxToken  = 1024
)

var (
	tokenForm = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`) // RFC 6750
	nameForm  = regexp.MustCompile(`^[A-Za-z0-9._@-]{1,64}$`)
)

// Tokens are the tokens of a file, a line each: NAME TOKEN. Lines that begin with # are left out. A name may have several.
type Tokens struct{ kept *kept.Value[[]token] }

type token struct {
	digest [sha256.Size]byte
	name   string
}

// ReadTokens reads a file of tokens, and again when it changes.
func ReadTokens(path string, log *slog.Logger) (*Tokens, error) {
	read := func() ([]token, error) {
		data, err := kept.Read(path)
		if err != nil {
			return nil, err
		}
		return parse(data)
	}
	v, err := kept.New("the file of tokens", log, read, path)
	if err != nil {
		return nil, err
	}
	return &Tokens{v}, nil
}

// Name returns the name of a token. It takes as long whichever token it is.
func (t *Tokens) Name(text string) (name string, known bool) {
	digest := sha256.Sum256([]byte(text))
	for _, one := range t.kept.Get() {
		if subtle.ConstantTimeCompare(one.digest[:], digest[:]) == 1 {
			name, known = one.name, true
		}
	}
	return name, known
}

// Broken reports whether the file has changed so that it cannot be used.
func (t *Tokens) Broken() bool { return t.kept.Broken() }

// parse reads tokens. Its errors have the number of a line, and nothing of it.
func parse(data []byte) ([]token, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("it is not text in UTF-8")
	}
	var tokens []token
	seen := map[[sha256.Size]byte]bool{}
	number := 0
	for line := range strings.Lines(string(data)) {
		number++
		words := strings.Fields(line)
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		if len(words) != 2 || !nameForm.MatchString(words[0]) {
			return nil, fmt.Errorf("line %d: NAME TOKEN is needed, the name in letters, digits and . _ @ -", number)
		}
		if n := len(words[1]); n < minToken || n > maxToken || !tokenForm.MatchString(words[1]) {
			return nil, fmt.Errorf("line %d: a token has %d to %d characters: letters, digits, - . _ ~ + /, and = at its end",
				number, minToken, maxToken)
		}
		digest := sha256.Sum256([]byte(words[1]))
		if seen[digest] {
			return nil, fmt.Errorf("line %d: this token stands in the file twice", number)
		}
		seen[digest] = true
		tokens = append(tokens, token{digest, words[0]})
	}
	if len(tokens) == 0 || len(tokens) > maxTokens {
		return nil, fmt.Errorf("it has %d tokens; 1 to %d are possible", len(tokens), maxTokens)
	}
	return tokens, nil
}

// Certificate is what a server shows, read again when its files change.
type Certificate struct{ kept *kept.Value[*tls.Certificate] }

// ReadCertificate reads a certificate and its key, in PEM.
func ReadCertificate(cert, key string, log *slog.Logger) (*Certificate, error) {
	read := func() (*tls.Certificate, error) {
		pair, err := LoadPair(cert, key)
		if err != nil {
			return nil, err
		}
		leaf := pair.Leaf
		if now := time.Now(); now.After(leaf.NotAfter) || now.Before(leaf.NotBefore) {
			return nil, fmt.Errorf("the certificate is valid from %s to %s alone",
				leaf.NotBefore.Format(time.RFC3339), leaf.NotAfter.Format(time.RFC3339))
		}
		return pair, nil
	}
	v, err := kept.New("certificate and key", log, read, cert, key)
	if err != nil {
		return nil, err
	}
	return &Certificate{v}, nil
}

// LoadPair reads a certificate and its key, in PEM.
func LoadPair(cert, key string) (*tls.Certificate, error) {
	certPEM, err := kept.Read(cert)
	if err != nil {
		return nil, err
	}
	keyPEM, err := kept.Read(key)
	if err != nil {
		return nil, err
	}
	if encrypted(keyPEM) {
		return nil, errors.New("the key has a passphrase, which nobody could type when the server starts; store it without")
	}
	pair, err := tls.X509KeyPair(certPEM, keyPEM)
	if err != nil && strings.Contains(err.Error(), "does not match public key") {
		return nil, fmt.Errorf("%w: the key's own certificate comes first in the file, then those between it and its CA", err)
	}
	if err != nil {
		return nil, err
	}
	return &pair, nil
}

// encrypted reports whether the first key in PEM has a passphrase, in the form of PKCS #8 or in OpenSSL's own.
func encrypted(data []byte) bool {
	for {
		var block *pem.Block
		if block, data = pem.Decode(data); block == nil {
			return false
		}
		if strings.HasSuffix(block.Type, "PRIVATE KEY") {
			return block.Type == "ENCRYPTED PRIVATE KEY" || strings.Contains(block.Headers["Proc-Type"], "ENCRYPTED")
		}
	}
}

// Config returns how a server of HTTP/1.1 encrypts: with TLS 1.2 or newer, and what the files hold when a client comes.
func (c *Certificate) Config() *tls.Config {
	return &tls.Config{
		MinVersion:     tls.VersionTLS12,
		NextProtos:     []string{"http/1.1"},
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) { return c.kept.Get(), nil },
	}
}

// Leaf returns the certificate.
func (c *Certificate) Leaf() *x509.Certificate { return c.kept.Get().Leaf }

// Broken reports whether the files have changed so that they cannot be used.
func (c *Certificate) Broken() bool { return c.kept.Broken() }
