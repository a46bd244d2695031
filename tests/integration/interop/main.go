// Command interop verifies a log of ours with the Go project's own packages: golang.org/x/mod/sumdb/note and tlog.
//
//	interop log DIR              a log as static files
//	interop receipt KEYS FILE    an entry's receipt, a C2SP tlog-proof (receipts.go)
//	interop chain KEYS FILE      an entry's receipt and its shard's in the log of super-checkpoints
//
// Of a log it reads DIR/log (a checkpoint and tiles) and DIR/case.json (keys and proofs), and prints as JSON which
// checks failed and why, and what the packages themselves make of the same log. Of the others it reads the public keys,
// one a line, and the text, as they were given out; it prints what they prove, or exits with 1 and says why not.
// Only the verifier of cosignatures is written here, on crypto/ed25519: note knows no algorithm but its own.
package main

import (
	"crypto/ed25519"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	tileHeight           = 8
	algorithmCosignature = 4
	timeBytes            = 8
)

type inclusion struct {
	Index int64
	Leaf  tlog.Hash
	Proof tlog.RecordProof
}

type consistency struct {
	Size  int64
	Root  tlog.Hash
	Proof tlog.TreeProof
}

type caseFile struct {
	VerifierKey string
	SecretKey   string
	WitnessKey  string
	Inclusion   []inclusion
	Consistency []consistency
}

type report struct {
	Failures    map[string]string
	Paths       []string           // of every tile and bundle that a log of this size has
	Inclusion   []tlog.RecordProof // computed by tlog from the tiles
	Consistency []tlog.TreeProof
	Signed      string // the checkpoint's text, signed by note with our secret key
	TimeS       uint64 // of the cosignature
}

// files serves a log's directory as tlog.TileReader.
type files string

func (dir files) Height() int { return tileHeight }

func (dir files) SaveTiles([]tlog.Tile, [][]byte) {}

func (dir files) ReadTiles(tiles []tlog.Tile) ([][]byte, error) {
	var data [][]byte
	for _, tile := range tiles {
		hashes, err := os.ReadFile(filepath.Join(string(dir), pathOf(tile)))
		if err != nil {
			return nil, err
		}
		if len(hashes) != tile.W*tlog.HashSize {
			return nil, fmt.Errorf("%s has %d bytes", pathOf(tile), len(hashes))
		}
		data = append(data, hashes)
	}
	return data, nil
}

// pathOf is tlog's path as C2SP tlog-tiles has it: without the height, and with entries for data.
func pathOf(tile tlog.Tile) string {
	path := strings.TrimPrefix(tile.Path(), fmt.Sprintf("tile/%d/", tileHeight))
	if rest := strings.TrimPrefix(path, "data/"); rest != path {
		path = "entries/" + rest
	}
	return "tile/" + path
}

// cosigner is a note.Verifier of C2SP tlog-cosignature, version 1. It remembers the time of what it verified.
type cosigner struct {
	name   string
	hash   uint32
	public ed25519.PublicKey
	timeS  uint64
}

func newCosigner(key string) (*cosigner, error) {
	parts := strings.SplitN(key, "+", 3)
	if len(parts) != 3 {
		return nil, errors.New("not a verifier key")
	}
	id, err := hex.DecodeString(parts[1])
	if err != nil {
		return nil, err
	}
	data, err := base64.StdEncoding.DecodeString(parts[2])
	if err != nil {
		return nil, err
	}
	sum := sha256.Sum256(append([]byte(parts[0]+"\n"), data...))
	if len(data) != 1+ed25519.PublicKeySize || data[0] != algorithmCosignature || string(sum[:4]) != string(id) {
		return nil, errors.New("not a cosigner's key")
	}
	return &cosigner{name: parts[0], hash: binary.BigEndian.Uint32(id), public: data[1:]}, nil
}

func (c *cosigner) Name() string    { return c.name }
func (c *cosigner) KeyHash() uint32 { return c.hash }

func (c *cosigner) Verify(text, signature []byte) bool {
	if len(signature) != timeBytes+ed25519.SignatureSize {
		return false
	}
	c.timeS = binary.BigEndian.Uint64(signature)
	message := fmt.Sprintf("cosignature/v1\ntime %d\n%s", c.timeS, text)
	return ed25519.Verify(c.public, []byte(message), signature[timeBytes:])
}

// checkpoint is what a checkpoint says.
type checkpoint struct {
	text   string
	origin string
	tree   tlog.Tree
}

func parseCheckpoint(text string) (*checkpoint, error) {
	lines := strings.Split(text, "\n")
	if len(lines) != 4 || lines[3] != "" {
		return nil, errors.New("not a checkpoint")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil {
		return nil, err
	}
	root, err := tlog.ParseHash(lines[2])
	return &checkpoint{text, lines[0], tlog.Tree{N: size, Hash: root}}, err
}

// openCheckpoint returns a checkpoint that the log it names has signed with one of the keys.
func openCheckpoint(signed []byte, keys ...string) (*checkpoint, error) {
	var verifiers []note.Verifier
	for _, key := range keys {
		verifier, err := note.NewVerifier(key)
		if err != nil {
			return nil, err
		}
		verifiers = append(verifiers, verifier)
	}
	opened, err := note.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return nil, err
	}
	parsed, err := parseCheckpoint(opened.Text)
	if err != nil {
		return nil, err
	}
	for _, signature := range opened.Sigs {
		if signature.Name == parsed.origin {
			return parsed, nil
		}
	}
	return nil, errors.New("not a checkpoint of this log")
}

func checkCosignature(signed []byte, key string, out *report) error {
	verifier, err := newCosigner(key)
	if err != nil {
		return err
	}
	_, err = note.Open(signed, note.VerifierList(verifier))
	out.TimeS = verifier.timeS
	return err
}

func checkRoot(tree tlog.Tree, hashes tlog.HashReader) error {
	root, err := tlog.TreeHash(tree.N, hashes)
	if err == nil && root != tree.Hash {
		err = fmt.Errorf("the root is %v", root)
	}
	return err
}

// checkEntries reads every tile of level 0 through tlog, which authenticates it, and compares every entry with it.
func checkEntries(dir string, tree tlog.Tree, hashes tlog.HashReader) error {
	const width = 1 << tileHeight
	for begin := int64(0); begin < tree.N; begin += width {
		end := begin + width
		if end > tree.N {
			end = tree.N
		}
		var indexes []int64
		for index := begin; index < end; index++ {
			indexes = append(indexes, tlog.StoredHashIndex(0, index))
		}
		leaves, err := hashes.ReadHashes(indexes)
		if err != nil {
			return err
		}
		path := pathOf(tlog.Tile{H: tileHeight, L: -1, N: begin / width, W: len(leaves)})
		bundle, err := os.ReadFile(filepath.Join(dir, path))
		if err != nil {
			return err
		}
		for _, leaf := range leaves {
			if len(bundle) < 2 || len(bundle) < 2+int(binary.BigEndian.Uint16(bundle)) {
				return fmt.Errorf("%s is too short", path)
			}
			end := 2 + int(binary.BigEndian.Uint16(bundle))
			if tlog.RecordHash(bundle[2:end]) != leaf {
				return fmt.Errorf("%s holds an entry that is not in its tile", path)
			}
			bundle = bundle[end:]
		}
		if len(bundle) > 0 {
			return fmt.Errorf("%s is too long", path)
		}
	}
	return nil
}

func checkInclusion(cases []inclusion, tree tlog.Tree) error {
	for _, c := range cases {
		if err := tlog.CheckRecord(c.Proof, tree.N, tree.Hash, c.Index, c.Leaf); err != nil {
			return fmt.Errorf("index %d: %w", c.Index, err)
		}
	}
	return nil
}

func checkConsistency(cases []consistency, tree tlog.Tree) error {
	for _, c := range cases {
		if err := tlog.CheckTree(c.Proof, tree.N, tree.Hash, c.Size, c.Root); err != nil {
			return fmt.Errorf("size %d: %w", c.Size, err)
		}
	}
	return nil
}

// compute fills in what the packages make of the log by themselves.
func compute(in caseFile, text string, tree tlog.Tree, hashes tlog.HashReader, out *report) error {
	tiles := tlog.NewTiles(tileHeight, 0, tree.N)
	for i, tile := range tiles {
		if i+1 < len(tiles) && tiles[i+1].L == tile.L && tiles[i+1].N == tile.N {
			continue // a narrower tile, of a smaller tree
		}
		out.Paths = append(out.Paths, pathOf(tile))
		if tile.L == 0 {
			out.Paths = append(out.Paths, pathOf(tlog.Tile{H: tile.H, L: -1, N: tile.N, W: tile.W}))
		}
	}
	for _, c := range in.Inclusion {
		proof, err := tlog.ProveRecord(tree.N, c.Index, hashes)
		if err != nil {
			return err
		}
		out.Inclusion = append(out.Inclusion, proof)
	}
	for _, c := range in.Consistency {
		proof, err := tlog.ProveTree(tree.N, c.Size, hashes)
		if err != nil {
			return err
		}
		out.Consistency = append(out.Consistency, proof)
	}
	signer, err := note.NewSigner(in.SecretKey)
	if err != nil {
		return err
	}
	signed, err := note.Sign(&note.Note{Text: text}, signer)
	out.Signed = string(signed)
	return err
}

func checkLog(dir string) (*report, error) {
	data, err := os.ReadFile(filepath.Join(dir, "case.json"))
	if err != nil {
		return nil, err
	}
	var in caseFile
	if err := json.Unmarshal(data, &in); err != nil {
		return nil, err
	}
	log := filepath.Join(dir, "log")
	signed, err := os.ReadFile(filepath.Join(log, "checkpoint"))
	if err != nil {
		return nil, err
	}
	out := &report{Failures: map[string]string{}}
	check := func(name string, err error) {
		if err != nil {
			out.Failures[name] = err.Error()
		}
	}
	opened, err := openCheckpoint(signed, in.VerifierKey)
	check("note", err)
	check("cosignature", checkCosignature(signed, in.WitnessKey, out))
	if opened == nil {
		return out, nil // nothing to check tiles and proofs against
	}
	tree := opened.tree
	hashes := tlog.TileHashReader(tree, files(log))
	check("root", checkRoot(tree, hashes))
	check("entries", checkEntries(log, tree, hashes))
	check("inclusion", checkInclusion(in.Inclusion, tree))
	check("consistency", checkConsistency(in.Consistency, tree))
	check("compute", compute(in, opened.text, tree, hashes, out))
	return out, nil
}

func run(arguments []string) (any, error) {
	switch {
	case len(arguments) == 2 && arguments[0] == "log":
		return checkLog(arguments[1])
	case len(arguments) == 3 && arguments[0] == "receipt":
		return readProof(openReceipt, arguments[1], arguments[2])
	case len(arguments) == 3 && arguments[0] == "chain":
		return readProof(openChain, arguments[1], arguments[2])
	}
	return nil, errors.New("usage: interop log DIR | receipt KEYS FILE | chain KEYS FILE")
}

func main() {
	out, err := run(os.Args[1:])
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(out)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
