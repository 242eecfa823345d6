package stream

import (
	"io"
	"sync"

	"example.com/predserver/gateway/internal/budget"
)

// backlog holds the predictions of a stream that are not written yet, in order and up to a limit, and knows how the
// stream ends.
//
// What needs it are clients that read nothing until they have sent everything, as many do: without it, they and the
// gateway would wait for each other. It makes room for the predictions of some hundred thousand rows.
type backlog struct {
	limit int           // bytes; one text that is longer finds room all the same
	share *budget.Share // what the texts are taken from, but for one; nil has no bounds

	mu      sync.Mutex
	changed *sync.Cond
	texts   []string
	size    int
	end     error // why no more is added: io.EOF, or what went wrong
}

func newBacklog(limit int, share *budget.Share) *backlog {
	b := &backlog{limit: limit, share: share}
	b.changed = sync.NewCond(&b.mu)
	return b
}

// put waits for room and adds text. It reports false if the backlog is closed.
func (b *backlog) put(text string) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.end == nil && !b.takes(len(text)) {
		b.changed.Wait()
	}
	if b.end != nil {
		return false
	}
	b.texts, b.size = append(b.texts, text), b.size+len(text)
	b.changed.Broadcast()
	return true
}

// takes reports whether there is room for so many bytes, and takes it. What is taken for a stream with an empty backlog is
// taken whether the budget has it or not: only then does the stream move on.
func (b *backlog) takes(bytes int) bool {
	switch {
	case b.share == nil:
		return b.size == 0 || b.size+bytes <= b.limit
	case b.size == 0:
		b.share.Must(int64(bytes))
		return true
	}
	return b.size+bytes <= b.limit && b.share.Try(int64(bytes))
}

// get waits for a text. After the last it returns io.EOF; when something went wrong, that error, and no more texts.
func (b *backlog) get() (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for b.end == nil && len(b.texts) == 0 {
		b.changed.Wait()
	}
	if len(b.texts) == 0 || b.end != nil && b.end != io.EOF {
		return "", b.end
	}
	text := b.texts[0]
	b.texts, b.size = b.texts[1:], b.size-len(text)
	if b.share != nil {
		b.share.Free(int64(len(text)))
	}
	b.changed.Broadcast()
	return text, nil
}

// close says that no more is added, and why. What is said first holds.
func (b *backlog) close(end error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == nil {
		b.end = end
		b.changed.Broadcast()
	}
}
