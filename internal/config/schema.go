package config

import _ "embed"

// The file is made from the structs of this package by the test that holds it
// in step: go test ./internal/config -run TestSchema -update
//
//go:embed devbox.schema.json
var schema []byte

// Schema returns the JSON schema of devbox.yaml (draft 2020-12).
func Schema() []byte { return append([]byte(nil), schema...) }
