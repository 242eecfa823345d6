// Package text turns bytes into text without a copy.
package text

import "unsafe"

// Of returns the bytes as text. Nobody may change them afterwards. For large tables it saves a copy of what is the most of
// the gateway's memory.
func Of(bytes []byte) string {
	return unsafe.String(unsafe.SliceData(bytes), len(bytes))
}
