// Package catalog says what a prediction server serves: as JSON shows it, and as a first call needs it.
package catalog

import (
	"strings"

	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// Catalog is what GET /models answers.
type Catalog struct {
	// Models are in the server's order: the first answers calls that name none.
	Models []Model `json:"models"`
}

// Model is a model as its server describes it. No field is ever left out; what is not known is empty.
type Model struct {
	Name          string            `json:"name"`
	Version       string            `json:"version"`
	Columns       []Column          `json:"columns"`
	Target        Column            `json:"target"`
	Classes       []string          `json:"classes"`
	Engine        string            `json:"engine"`
	Parity        string            `json:"parity"`
	Threads       string            `json:"threads"`
	Encodings     []string          `json:"encodings"`
	Scores        map[string]string `json:"scores"`
	SchemaHash    string            `json:"schema_hash"`
	ContentDigest string            `json:"content_digest"`
	Example       string            `json:"example"` // a table in CSV, whose values are of the right types and mean nothing
}

// Column is one column of a model, or its target.
type Column struct {
	Name     string `json:"name"`
	Dtype    string `json:"dtype"` // as NumPy names it, or str
	Nullable bool   `json:"nullable"`
	Unit     string `json:"unit"`
}

// Of returns the model of a description.
func Of(description *predpb.DescribeResponse, identity pred.Identity) Model {
	m := Model{
		Name: description.GetName(), Version: description.GetVersion(), Target: column(description.GetTarget()),
		Columns: []Column{}, Classes: list(description.GetClasses()), Encodings: list(description.GetEncodings()),
		Engine: description.GetEngine(), Parity: description.GetParity(), Threads: description.GetThreads(),
		Scores: map[string]string{}, SchemaHash: identity.SchemaHash, ContentDigest: identity.ContentDigest,
	}
	for _, c := range description.GetColumns() {
		m.Columns = append(m.Columns, column(c))
	}
	for name, value := range description.GetScores() {
		m.Scores[name] = value
	}
	m.Example = example(m.Columns)
	return m
}

// Choice is a model as a call asks for it. What is empty is for the server to choose.
type Choice struct{ Name, Version string }

// Choices returns all models that the description's server has, in its order.
func Choices(description *predpb.DescribeResponse) []Choice {
	choices := []Choice{}
	for _, model := range description.GetModels() {
		name, version := model, ""
		if at := strings.LastIndexByte(model, '/'); at >= 0 {
			name, version = model[:at], model[at+1:]
		}
		choices = append(choices, Choice{name, version})
	}
	if len(choices) == 0 { // a server that does not list them has one at least
		choices = append(choices, Choice{description.GetName(), description.GetVersion()})
	}
	return choices
}

func column(c *predpb.ColumnDescription) Column {
	return Column{c.GetName(), c.GetDtype(), c.GetNullable(), c.GetUnit()}
}

// list returns the texts as a list that JSON writes as one also where there are none.
func list(texts []string) []string { return append([]string{}, texts...) }
