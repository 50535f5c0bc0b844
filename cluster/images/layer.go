// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package images

import (
	"archive/tar"
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
)

// plainLayer is an uncompressed layer in a file: these images never cross a
// slow network, so compressing them would only cost time, twice.
type plainLayer struct {
	file string
	hash v1.Hash
	size int64
}

func (l plainLayer) Digest() (v1.Hash, error)             { return l.hash, nil }
func (l plainLayer) DiffID() (v1.Hash, error)             { return l.hash, nil }
func (l plainLayer) Compressed() (io.ReadCloser, error)   { return os.Open(l.file) }
func (l plainLayer) Uncompressed() (io.ReadCloser, error) { return os.Open(l.file) }
func (l plainLayer) Size() (int64, error)                 { return l.size, nil }
func (l plainLayer) MediaType() (types.MediaType, error)  { return types.OCIUncompressedLayer, nil }

// layerWriter writes one layer. The first error sticks and is returned by layer.
type layerWriter struct {
	file *os.File
	sum  hashWriter
	tar  *tar.Writer
	dirs map[string]bool
	err  error
}

type hashWriter struct {
	io.Writer
	buffer *bufio.Writer
	hash   interface {
		io.Writer
		Sum([]byte) []byte
	}
	size int64
}

func (h *hashWriter) Write(p []byte) (int, error) {
	h.hash.Write(p)
	h.size += int64(len(p))
	return h.buffer.Write(p)
}

func newLayer(path string) (*layerWriter, error) {
	file, err := os.Create(path)
	if err != nil {
		return nil, err
	}
	w := &layerWriter{file: file, dirs: map[string]bool{}}
	w.sum = hashWriter{buffer: bufio.NewWriterSize(file, 1<<20), hash: sha256.New()}
	w.tar = tar.NewWriter(&w.sum)
	return w, nil
}

// The same inputs give the same layer: no times, no owners.
func header(name string, mode int64, kind byte) *tar.Header {
	return &tar.Header{Name: name, Mode: mode, Typeflag: kind, ModTime: time.Unix(0, 0), Format: tar.FormatPAX}
}

func (w *layerWriter) parents(name string) {
	dir := filepath.Dir(name)
	if dir == "." || w.dirs[dir] {
		return
	}
	w.parents(dir)
	w.dirs[dir] = true
	w.header(header(dir+"/", 0o755, tar.TypeDir))
}

func (w *layerWriter) header(h *tar.Header) {
	if w.err == nil {
		w.err = w.tar.WriteHeader(h)
	}
}

func (w *layerWriter) bytes(name string, mode int64, data []byte) {
	w.parents(name)
	h := header(name, mode, tar.TypeReg)
	h.Size = int64(len(data))
	w.header(h)
	if w.err == nil {
		_, w.err = w.tar.Write(data)
	}
}

func (w *layerWriter) copyFile(name string, mode int64, from string) {
	if w.err != nil {
		return
	}
	file, err := os.Open(from)
	if err != nil {
		w.err = err
		return
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		w.err = err
		return
	}
	w.parents(name)
	h := header(name, mode, tar.TypeReg)
	h.Size = info.Size()
	w.header(h)
	if w.err == nil {
		_, w.err = io.Copy(w.tar, file)
	}
}

func (w *layerWriter) link(name, target string) {
	w.parents(name)
	h := header(name, 0o777, tar.TypeSymlink)
	h.Linkname = target
	w.header(h)
}

// owned gives a directory to a user.
func (w *layerWriter) dir(name string, mode int64, uid int) {
	w.parents(name)
	h := header(name+"/", mode, tar.TypeDir)
	h.Uid, h.Gid = uid, uid
	w.header(h)
	w.dirs[name] = true
}

// from copies those entries of another tar that keep accepts.
func (w *layerWriter) from(path string, keep func(*tar.Header) bool) {
	if w.err != nil {
		return
	}
	file, err := os.Open(path)
	if err != nil {
		w.err = err
		return
	}
	defer file.Close()
	in := tar.NewReader(bufio.NewReaderSize(file, 1<<20))
	for w.err == nil {
		h, err := in.Next()
		if err == io.EOF {
			return
		}
		if err != nil {
			w.err = fmt.Errorf("read %s: %w", filepath.Base(path), err)
			return
		}
		h.Name = strings.TrimPrefix(h.Name, "./")
		if h.Name == "" || !keep(h) {
			continue
		}
		h.Format = tar.FormatPAX
		w.header(h)
		if w.err == nil {
			_, w.err = io.Copy(w.tar, in)
		}
	}
}

func (w *layerWriter) layer() (v1.Layer, error) {
	defer w.file.Close()
	if w.err == nil {
		w.err = w.tar.Close()
	}
	if w.err == nil {
		w.err = w.sum.buffer.Flush()
	}
	if w.err != nil {
		return nil, fmt.Errorf("write layer %s: %w", filepath.Base(w.file.Name()), w.err)
	}
	return plainLayer{
		file: w.file.Name(),
		hash: v1.Hash{Algorithm: "sha256", Hex: hex.EncodeToString(w.sum.hash.Sum(nil))},
		size: w.sum.size,
	}, nil
}

// image puts layers under a configuration.
func image(config v1.Config, layers ...v1.Layer) (v1.Image, error) {
	base := mutate.MediaType(mutate.ConfigMediaType(empty.Image, types.OCIConfigJSON), types.OCIManifestSchema1)
	img, err := mutate.AppendLayers(base, slices.Clone(layers)...)
	if err != nil {
		return nil, err
	}
	file, err := img.ConfigFile()
	if err != nil {
		return nil, err
	}
	file = file.DeepCopy()
	file.OS, file.Architecture, file.Config = "linux", goarch, config
	return mutate.ConfigFile(img, file)
}
