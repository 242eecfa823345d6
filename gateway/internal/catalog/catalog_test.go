package catalog

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"example.com/predserver/gateway/pred"
	"example.com/predserver/generated/predpb"
)

// Programs read these names: they stay, and none is ever left out.
func TestShapeOfAModel(t *testing.T) {
	text, err := json.Marshal(Of(&predpb.DescribeResponse{Name: "m"}, pred.Identity{}))
	const want = `{"name":"m","version":"","columns":[],"target":{"name":"","dtype":"","nullable":false,"unit":""},"classes":[],` +
		`"engine":"","parity":"","threads":"","encodings":[],"scores":{},"schema_hash":"","content_digest":"","example":"\n\n"}`
	if err != nil || string(text) != want {
		t.Errorf("%v\n got %s\nwant %s", err, text, want)
	}
}

func TestExamples(t *testing.T) {
	tests := map[string][]Column{
		"x,n,s,b,y,u\n0.5,1,a,true,4.5,1\n": {
			{Name: "x", Dtype: "float64"}, {Name: "n", Dtype: "int64"}, {Name: "s", Dtype: "str"}, {Name: "b", Dtype: "bool"},
			{Name: "y", Dtype: "float32"}, {Name: "u", Dtype: "uint8"},
		},
		"\"a,b\",\"q\"\"\",\"two\nlines\",\"\",\" \"\n1,1,1,1,1\n": {
			{Name: "a,b", Dtype: "int8"}, {Name: `q"`, Dtype: "int8"}, {Name: "two\nlines", Dtype: "int8"}, {Name: "", Dtype: "int8"}, {Name: " ", Dtype: "int8"},
		},
	}
	for want, columns := range tests {
		if got := example(columns); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestChoices(t *testing.T) {
	for _, test := range []struct {
		models []string
		want   []Choice
	}{
		{nil, []Choice{{"m", "7"}}},
		{[]string{"a/1", "b/c/2", "d"}, []Choice{{"a", "1"}, {"b/c", "2"}, {"d", ""}}},
	} {
		if got := Choices(&predpb.DescribeResponse{Name: "m", Version: "7", Models: test.models}); !slices.Equal(got, test.want) {
			t.Errorf("%q: got %v", test.models, got)
		}
	}
}

func TestCurl(t *testing.T) {
	const base = "http://127.0.0.1:8080"
	const begin = "curl -sS http://127.0.0.1:8080/predict -H 'Content-Type: text/csv'"
	for _, test := range []struct {
		choice      Choice
		table, want string
	}{
		{Choice{}, "x\r\n1\r\n", begin + " \\\n  --data-raw 'x\n1\n'"},
		{Choice{"m", "2"}, "x\n1", begin + " -H 'Model-Name: m' -H 'Model-Version: 2' \\\n  --data-raw 'x\n1'"},
		{Choice{}, "it's\n$(rm)\n", begin + " \\\n  --data-raw 'it'\\''s\n$(rm)\n'"},
		{Choice{}, "", begin + " \\\n  --data-binary @table.csv"},
		{Choice{}, "x\n\x03reboot\n", begin + " \\\n  --data-binary @table.csv"},
		{Choice{}, "x\n\xff\n", begin + " \\\n  --data-binary @table.csv"},
		{Choice{}, "x\n\u202egnp.exe\n", begin + " \\\n  --data-binary @table.csv"},
		{Choice{}, "x\n" + strings.Repeat("1\n", longest), begin + " \\\n  --data-binary @table.csv"},
		{Choice{Name: "a\x03b"}, "x\n1", begin + " \\\n  --data-raw 'x\n1'"},
	} {
		if got := Curl(base, test.choice, false, test.table); got != test.want {
			t.Errorf("%v, %.20q: got\n%s\nwant\n%s", test.choice, test.table, got, test.want)
		}
	}
	if got := Curl(base, Choice{}, true, "x\n1"); got != "curl -sS "+base+"/predict -H 'Authorization: Bearer TOKEN' -H 'Content-Type: text/csv' \\\n  --data-raw 'x\n1'" {
		t.Errorf("got %s", got)
	}
	if got := Curl("http://[::1]:80;ls", Choice{}, false, "x"); !strings.HasPrefix(got, "curl -sS 'http://[::1]:80;ls/predict' -H") {
		t.Errorf("got %s", got)
	}
}
