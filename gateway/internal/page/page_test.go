package page

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"reflect"
	"strings"
	"testing"

	"example.com/predserver/gateway/internal/catalog"
	"example.com/predserver/gateway/internal/problem"
)

// full returns a view in which every text is this one.
func full(text string) *View {
	column := catalog.Column{Name: text, Dtype: text, Nullable: true, Unit: text}
	table := fmt.Sprintf("\"%[1]s\",b\n\"%[1]s\",1\n", strings.ReplaceAll(text, `"`, `""`))
	answer := NewAnswer(table, table, text+",b", text, `predict;dur=1, backend;dur=2, gateway;dur=1`)
	e := problem.BadRequest("%s", text)
	e.Violations = []problem.Violation{{Field: text, Description: text}, {Field: text, Description: "line 2: " + text}}
	return &View{
		Models: []Link{{Text: text, URL: "/?model=" + text, Current: true}, {Text: text, URL: text}},
		Model: &catalog.Model{
			Name: text, Version: text, Columns: []catalog.Column{column, column}, Target: column, Classes: []string{text},
			Engine: text, Parity: text, Threads: text, Encodings: []string{text}, Scores: map[string]string{text: text},
			SchemaHash: text, ContentDigest: text, Example: text,
		},
		Note: text, Curl: text, RequestID: text, Answer: answer, Problem: NewProblem(e, table),
		Form: &Form{Action: text, Table: text, Schema: text, Classifies: true, Probabilities: true},
	}
}

// Whatever a model, a table or an error holds, the page has the elements and attributes of its template, and no others.
func TestNothingIsMarkup(t *testing.T) {
	plain, err := full("plain").Render()
	if err != nil {
		t.Fatal(err)
	}
	want := tags(t, plain)
	for _, text := range []string{
		"<script>alert(1)</script>", "</textarea><script>alert(1)</script>", "</title></style><script>", `" onfocus="alert(1)" x="`,
		"' autofocus onfocus='alert(1)", "javascript:alert(1)", "<!--", "]]><svg onload=alert(1)>", "&lt;script&gt;", "{{.Style}}", "a\x00b\x1b",
	} {
		page, err := full(text).Render()
		if err != nil {
			t.Fatal(err)
		}
		if got := tags(t, page); !reflect.DeepEqual(got, want) {
			t.Errorf("%q became markup:\n got %q\nwant %q", text, got, want)
		}
		if strings.Contains(page, `href="javascript:`) || strings.Contains(page, `action="javascript:`) {
			t.Errorf("%q is a link that runs", text)
		}
	}
}

// tags returns the elements of a page with the names of their attributes, in order.
func tags(t *testing.T, page string) []string {
	t.Helper()
	var all []string
	for rest := page; ; {
		at := strings.IndexByte(rest, '<')
		if at < 0 {
			return all
		}
		rest = rest[at+1:]
		if strings.HasPrefix(rest, "style>") {
			rest = rest[strings.Index(rest, "</style>")+1:]
		}
		tag := readTag(t, &rest)
		all = append(all, tag)
	}
}

// readTag cuts a tag off rest, behind its opening bracket, and returns it without the values of its attributes.
func readTag(t *testing.T, rest *string) string {
	t.Helper()
	var tag strings.Builder
	quoted := false
	for i, r := range *rest {
		switch {
		case r == '"':
			quoted = !quoted
		case r == '>' && !quoted:
			*rest = (*rest)[i+1:]
			return tag.String()
		case !quoted:
			tag.WriteRune(r)
		}
	}
	t.Fatalf("a tag is not closed: %.80s", *rest)
	panic("unreachable")
}

func TestThePageAsksForNothingElse(t *testing.T) {
	text, err := full("plain").Render()
	if err != nil {
		t.Fatal(err)
	}
	for _, outside := range []string{"<script", "<link", "<img", "<iframe", " src=", "@import", "url(", " style=", " on", "http:", "https:"} {
		for _, tag := range tags(t, text) {
			if strings.Contains("<"+tag, outside) {
				t.Errorf("%q in <%s>", outside, tag)
			}
		}
	}
	for _, outside := range []string{"@import", "url("} {
		if strings.Contains(style, outside) {
			t.Errorf("%q in the style sheet", outside)
		}
	}
}

// The browser takes a style sheet whose hash the policy has, to the byte.
func TestPolicyHasTheHashOfTheStyleThatIsSent(t *testing.T) {
	text, err := (&View{}).Render()
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(text, "<style>")
	sent, _, _ := strings.Cut(rest, "</style>")
	sum := sha256.Sum256([]byte(sent))
	want := "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
		"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
	if got := Header().Get("Content-Security-Policy"); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// Every control has a label, every table a caption and headers with a scope, and no id stands twice.
func TestNamesOfWhatIsOnThePage(t *testing.T) {
	text, err := full("plain").Render()
	if err != nil {
		t.Fatal(err)
	}
	for _, part := range []string{
		`<html lang="en">`, `<h1>`, `<main id="main">`, `<nav aria-label=`, `<a class="skip" href="#main">`,
		`<label for="table">`, `<textarea id="table"`, `<label for="file">`, `id="file"`, `<label for="probabilities">`, `id="probabilities"`,
		`<button id="predict" type="submit">`, `<button id="download" type="submit"`, `aria-current="page"`,
	} {
		if strings.Count(text, part) != 1 {
			t.Errorf("%d times %s", strings.Count(text, part), part)
		}
	}
	if tables := strings.Count(text, "<table"); tables != 4 || strings.Count(text, "<caption>") != tables {
		t.Errorf("%d tables, %d captions", tables, strings.Count(text, "<caption>"))
	}
	if strings.Count(text, "<th ") != strings.Count(text, ` scope="`) || strings.Contains(text, "<th>") {
		t.Error("a header without a scope")
	}
	seen := map[string]bool{}
	for _, part := range strings.Split(text, ` id="`)[1:] {
		id, _, _ := strings.Cut(part, `"`)
		if seen[id] && id != "answer" { // an answer and a problem never come together, but here
			t.Errorf("the id %s stands twice", id)
		}
		seen[id] = true
	}
}

func TestWaterfall(t *testing.T) {
	w := FromServerTiming(`decode;dur=1.000, queue;dur=0.500, predict;dur=5.000, encode;dur=0.500, batch;desc="1200 rows", ` +
		`backend;dur=8.000;desc="whole gRPC call", gateway;dur=2.000;desc="HTTP body and conversion"`)
	var got []string
	for _, p := range w.Phases {
		got = append(got, fmt.Sprintf("%s %s %.0f+%.0f %v", p.Name, p.Milliseconds, p.Start, p.Length, p.Model))
	}
	want := []string{
		"gateway 2.00 0+20 false", "transport 1.00 20+10 false", "decode 1.00 30+10 false", "queue 0.500 40+5 false",
		"predict 5.00 45+50 true", "encode 0.500 95+5 false",
	}
	if w.Total != "10.0" || w.Batch != "1,200" || !reflect.DeepEqual(got, want) {
		t.Errorf("%s ms, %s rows, %q", w.Total, w.Batch, got)
	}
	if w := FromServerTiming(`backend;dur=2, gateway;dur=0`); len(w.Phases) != 2 || w.Phases[1].Name != "transport" || w.Phases[1].Start > 0 {
		t.Errorf("a server that sends no times: %+v", w)
	}
	if w := FromServerTiming(`backend;dur=0, gateway;dur=0`); len(w.Phases) != 2 || w.Phases[0].Length > 100 {
		t.Errorf("no time at all: %+v", w)
	}
	if FromServerTiming("") != nil || FromServerTiming("predict;dur=1") != nil {
		t.Error("a waterfall of nothing")
	}
}

func TestAnswers(t *testing.T) {
	long := strings.Repeat("é", mostText+1)
	for _, test := range []struct{ name, table, predictions, want string }{
		{"beside its values", "x,y\n1,2\n\n3,4\n", "p\n5\n6\n", "[p] [x y] {1 [5] [1 2]} {2 [6] [3 4]}"},
		{"with a mark", "\ufeffx\r\n1\r\n", "p\n5\n", "[p] [x] {1 [5] [1]}"},
		{"quotes", "x\n\"a\"\"\nb\"\n", "p\n\"5,5\"\n", "[p] [x] {1 [5,5] [a\"\nb]}"},
		{"probabilities", "x\n1\n", "a,b\n0.5,0.5\n", "[a b] [x] {1 [0.5 0.5] [1]}"},
		{"rows that readers count in different ways", "x\n1\n \n", "p\n5\n", "[p] [] {1 [5] []}"},
		{"a row that is too short", "x,y\n1\n", "p\n5\n", "[p] [] {1 [5] []}"},
		{"long text", "x\n" + long + "\n", "p\n5\n", "[p] [x] {1 [5] [" + strings.Repeat("é", mostText) + "…]}"},
	} {
		a := NewAnswer(test.table, test.predictions, "", "", "")
		got := fmt.Sprint(a.Predicted, " ", a.Given)
		for _, row := range a.Rows {
			got += fmt.Sprint(" ", row)
		}
		if got != test.want {
			t.Errorf("%s: got %q, want %q", test.name, got, test.want)
		}
	}

	rows := strings.Repeat("1\n", 1234)
	a := NewAnswer("x\n"+rows, "p\n"+rows, "a%2Cb,c", "", "")
	if len(a.Rows) != mostRows || !a.Cut || a.Count != "1,234" || fmt.Sprint(a.Ignored) != "[a,b c]" {
		t.Errorf("%d rows of %s, cut: %v, ignored %q", len(a.Rows), a.Count, a.Cut, a.Ignored)
	}
	names := make([]string, mostColumns+2)
	for i := range names {
		names[i] = fmt.Sprint("c", i)
	}
	wide := strings.Join(names, ",") + "\n" + strings.Repeat("1,", len(names)-1) + "1\n"
	if a := NewAnswer(wide, "p\n1\n", "", "", ""); len(a.Given) != mostColumns || a.MoreColumns != 2 {
		t.Errorf("%d columns, %d more", len(a.Given), a.MoreColumns)
	}
}

func TestFaultsAreShownWithTheirLine(t *testing.T) {
	const table = "x,y\r\n1,a\r\n2,b"
	for description, want := range map[string]Violation{
		"line 2: 'a' is no number":                  {"y", "2", "1,a", "'a' is no number"},
		"line 3: 'b' is no number":                  {"y", "3", "2,b", "'b' is no number"},
		"line 2 has 3 fields, and the header 2":     {"y", "2", "1,a", "line 2 has 3 fields, and the header 2"},
		"line 4: there is no such line":             {"y", "4", "", "there is no such line"},
		"line 99999999999: a number that overflows": {"y", "", "", "line 99999999999: a number that overflows"},
		"the column is missing":                     {"y", "", "", "the column is missing"},
		"see line 2: it is there":                   {"y", "", "", "see line 2: it is there"},
	} {
		e := problem.BadRequest("y: %s", description)
		e.Violations = []problem.Violation{{Field: "y", Description: description}}
		if p := NewProblem(e, table); p.Message != "y: "+description || p.Violations[0] != want {
			t.Errorf("%s: got %+v", description, p)
		}
	}
}
