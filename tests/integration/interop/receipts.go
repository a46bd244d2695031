package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

const (
	proofHeader = "c2sp.org/tlog-proof@v1"
	entryBytes  = 240
	kindPeer    = 10
)

// receipt is a C2SP tlog-proof in parts, nothing verified.
type receipt struct {
	entry      []byte
	index      int64
	proof      tlog.RecordProof
	checkpoint string
}

// found is what a receipt or a chain has proved.
type found struct {
	Origin string
	Index  int64
	Size   int64
	Entry  []byte
}

func parseReceipt(text string) (*receipt, error) {
	head, checkpoint, isWhole := strings.Cut(text, "\n\n")
	lines := strings.Split(head, "\n")
	if !isWhole || len(lines) < 3 || lines[0] != proofHeader {
		return nil, errors.New("not a tlog-proof")
	}
	extra, index := strings.TrimPrefix(lines[1], "extra "), strings.TrimPrefix(lines[2], "index ")
	if extra == lines[1] || index == lines[2] {
		return nil, errors.New("no extra, or no index")
	}
	entry, err := base64.StdEncoding.Strict().DecodeString(extra)
	if err != nil {
		return nil, err
	}
	parsed := &receipt{entry: entry, checkpoint: checkpoint}
	parsed.index, err = strconv.ParseInt(index, 10, 64)
	if err != nil {
		return nil, err
	}
	for _, line := range lines[3:] {
		hash, err := tlog.ParseHash(line)
		if err != nil {
			return nil, err
		}
		parsed.proof = append(parsed.proof, hash)
	}
	return parsed, nil
}

// check returns what the receipt proves under a tree that is believed.
func (r *receipt) check(origin string, tree tlog.Tree) (*found, error) {
	if err := tlog.CheckRecord(r.proof, tree.N, tree.Hash, r.index, tlog.RecordHash(r.entry)); err != nil {
		return nil, err
	}
	return &found{origin, r.index, tree.N, r.entry}, nil
}

// openReceipt verifies a receipt with the keys of a log, one a line.
func openReceipt(text, keys string) (*found, error) {
	parsed, err := parseReceipt(text)
	if err != nil {
		return nil, err
	}
	opened, err := openCheckpoint([]byte(parsed.checkpoint), strings.Fields(keys)...)
	if err != nil {
		return nil, err
	}
	return parsed.check(opened.origin, opened.tree)
}

// openChain verifies an entry's receipt whose checkpoint is an entry of the log of super-checkpoints, with that log's
// key alone: the second receipt is that entry's.
func openChain(text, keys string) (*found, error) {
	first, second, isWhole := strings.Cut(text, "\n\n"+proofHeader+"\n")
	if !isWhole {
		return nil, errors.New("not two tlog-proofs")
	}
	parsed, err := parseReceipt(first + "\n")
	if err != nil {
		return nil, err
	}
	recorded, err := openReceipt(proofHeader+"\n"+second, keys)
	if err != nil {
		return nil, err
	}
	var unverified *note.UnverifiedNoteError
	if _, err := note.Open([]byte(parsed.checkpoint), note.VerifierList()); !errors.As(err, &unverified) {
		return nil, err
	}
	claimed, err := parseCheckpoint(unverified.Note.Text)
	if err != nil {
		return nil, err
	}
	if err := checkPeer(recorded.Entry, claimed); err != nil {
		return nil, err
	}
	return parsed.check(claimed.origin, claimed.tree)
}

// checkPeer returns an error unless an entry is the record of a shard's checkpoint; ledger/entry.py has its layout.
func checkPeer(entry []byte, claimed *checkpoint) error {
	text := sha256.Sum256([]byte(claimed.text))
	if len(entry) != entryBytes || entry[2] != kindPeer ||
		!strings.HasSuffix(claimed.origin, fmt.Sprintf("/shard-%d", binary.LittleEndian.Uint16(entry[74:]))) ||
		binary.LittleEndian.Uint64(entry[80:]) != uint64(claimed.tree.N) ||
		!bytes.Equal(entry[128:160], claimed.tree.Hash[:]) ||
		!bytes.Equal(entry[192:224], text[:]) {
		return errors.New("the super-log does not say that the shard had this tree")
	}
	return nil
}

// readProof opens the files that a third party has: public keys, and a receipt or a chain.
func readProof(open func(text, keys string) (*found, error), keysFile, file string) (*found, error) {
	keys, err := os.ReadFile(keysFile)
	if err != nil {
		return nil, err
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	return open(string(text), string(keys))
}
