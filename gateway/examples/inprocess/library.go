package inprocess

import (
	"fmt"
	"os"
	"path/filepath"
)

// LibraryVariable is the environment variable that names ONNX Runtime's shared library.
const LibraryVariable = "ONNXRUNTIME_LIBRARY"

// Library returns the path of ONNX Runtime's shared library: that of the environment, or the one that PyPI's package has
// brought into .venv, in this folder or in one above.
func Library() (string, error) {
	if path := os.Getenv(LibraryVariable); path != "" {
		return path, nil
	}
	folder, err := os.Getwd()
	for err == nil {
		found, _ := filepath.Glob(filepath.Join(folder, ".venv/lib/python3*/site-packages/onnxruntime/capi/libonnxruntime.*.*"))
		if len(found) > 0 {
			return found[0], nil
		}
		above := filepath.Dir(folder)
		if above == folder {
			break
		}
		folder = above
	}
	return "", fmt.Errorf("inprocess: %w: no libonnxruntime in any .venv above; `make setup` installs it, or name it in %s",
		ErrUnavailable, LibraryVariable)
}
