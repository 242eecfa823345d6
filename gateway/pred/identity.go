package pred

import (
	"context"
	"strings"
	"sync"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"example.com/predserver/generated/predpb"
)

// Metadata keys of the contract that have to do with identity.
const (
	keyIdentity = "model-identity"
	keyExpect   = "expect-schema"
)

// Identity says which model answered.
type Identity struct {
	Name    string
	Version string
	// SchemaHash changes with the model's columns, their types, or its target.
	SchemaHash string
	// ContentDigest changes with anything in the model's files.
	ContentDigest string
}

// String returns NAME/VERSION/SCHEMA-HASH/CONTENT-DIGEST, and nothing for the zero Identity.
func (i Identity) String() string {
	if i == (Identity{}) {
		return ""
	}
	return strings.Join([]string{i.Name, i.Version, i.SchemaHash, i.ContentDigest}, "/")
}

// identityOf reads model-identity. Servers from before it send none, and get the zero Identity; so does a value that is
// not of the form.
func identityOf(beside metadata.MD) Identity {
	for _, value := range beside.Get(keyIdentity) {
		parts := strings.Split(value, "/")
		if n := len(parts); n >= 4 && parts[n-2] != "" {
			// From the right: of the four, the name alone could hold a slash.
			return Identity{strings.Join(parts[:n-3], "/"), parts[n-3], parts[n-2], parts[n-1]}
		}
	}
	return Identity{}
}

// choice is the model that a call asks for: "" is what the server chooses.
type choice struct{ name, version string }

// choiceOf returns the model that an outgoing call asks for.
func choiceOf(ctx context.Context) choice {
	md, _ := metadata.FromOutgoingContext(ctx)
	return choice{strings.Join(md.Get("model-name"), ","), strings.Join(md.Get("model-version"), ",")}
}

// described keeps the hash of the schema that Describe last gave for each choice of a model. The caller made its tables
// after that schema, so calls expect it.
type described struct {
	mu     sync.Mutex
	hashes map[choice]string
}

// mostDescribed bounds what is kept, whatever names callers make up.
const mostDescribed = 1000

func (d *described) remember(c choice, hash string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.hashes == nil || len(d.hashes) >= mostDescribed {
		d.hashes = map[choice]string{}
	}
	d.hashes[c] = hash
}

func (d *described) forget(c choice) {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.hashes, c)
}

func (d *described) hash(c choice) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.hashes[c]
}

// expecting returns ctx with expect-schema, if Describe gave the schema of the model that the call asks for. It reports
// whether it did. A caller that says itself what it expects is left alone.
func (c *Client) expecting(ctx context.Context) (context.Context, bool) {
	if md, ok := metadata.FromOutgoingContext(ctx); ok && len(md.Get(keyExpect)) > 0 {
		return ctx, false
	}
	hash := c.described.hash(choiceOf(ctx))
	if hash == "" {
		return ctx, false
	}
	return metadata.AppendToOutgoingContext(ctx, keyExpect, hash), true
}

// describeAnew asks for the model's schema after a call was refused because it is another than expected. The context is
// the call's without the expectation. Where the new schema cannot be had, the client expects nothing any more: better no
// expectation than a call that is refused for ever.
func (c *Client) describeAnew(ctx context.Context) {
	c.described.forget(choiceOf(ctx))
	_, _ = c.describe(ctx)
}

// describe asks for the model's schema, and remembers its hash.
func (c *Client) describe(ctx context.Context) (*predpb.DescribeResponse, error) {
	description, identity, err := c.inspect(ctx)
	if err != nil {
		return nil, err
	}
	if hash := identity.SchemaHash; hash != "" {
		c.described.remember(choiceOf(ctx), hash)
	} else {
		c.described.forget(choiceOf(ctx))
	}
	return description, nil
}

// inspect asks for the model's schema.
func (c *Client) inspect(ctx context.Context) (*predpb.DescribeResponse, Identity, error) {
	var description *predpb.DescribeResponse
	beside, err := c.ask(ctx, func(ctx context.Context, s *asking) (err error) {
		description, err = s.stub.Describe(ctx, &predpb.DescribeRequest{}, s.options()...)
		return err
	})
	return description, identityOf(beside), err
}

// SchemaChanged reports whether the call was refused, before anything was predicted, because the model's schema is not
// the one that the call expected.
func (e *Error) SchemaChanged() bool {
	return e.Code == codes.FailedPrecondition && e.Reason == ReasonSchemaChanged
}
