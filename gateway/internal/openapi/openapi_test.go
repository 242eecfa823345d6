package openapi

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"example.com/predserver/gateway/internal/catalog"
)

// Validators and a generated client read whole documents, in tests/gateway/test_page.py. Here is what they do not see.

// schemaOf returns a schema of the document for these models, as text.
func schemaOf(t *testing.T, name string, models ...catalog.Model) string {
	t.Helper()
	var document struct {
		Components struct{ Schemas map[string]json.RawMessage }
	}
	if err := json.Unmarshal(Document(Gateway{URL: "http://localhost"}, models), &document); err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(document.Components.Schemas[name])
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestColumnsKeepTheirOrderAndTypes(t *testing.T) {
	column := func(name, dtype string, nullable bool) catalog.Column {
		return catalog.Column{Name: name, Dtype: dtype, Nullable: nullable}
	}
	m := catalog.Model{Name: "m", Columns: []catalog.Column{
		column("z", "float64", true), column("a", "int64", false), column("<b>", "uint8", false), column("s", "str", true), column("t", "bool", false),
		{Name: "u", Dtype: "float32", Unit: "km"}, column("w", "uint64", false),
	}, Target: column("p", "str", false)}
	want := `{"type":"object","properties":{"z":{"type":["number","null"],"format":"double"},"a":{"type":"integer","format":"int64"},` +
		`"\u003cb\u003e":{"type":"integer","minimum":0,"maximum":255},"s":{"type":["string","null"]},"t":{"type":"boolean"},` +
		`"u":{"type":"number","format":"float","description":"In km."},"w":{"type":"integer","minimum":0}},` +
		`"required":["z","a","\u003cb\u003e","s","t","u","w"]}`
	if got := schemaOf(t, "m_row", m); got != want {
		t.Errorf("got\n%s, want\n%s", got, want)
	}
	if got := schemaOf(t, "m_prediction", m); got != `{"type":"object","properties":{"p":{"type":["string","null"]}},"required":["p"]}` {
		t.Errorf("got %s", got)
	}
	m.Columns = m.Columns[:1]
	if got := schemaOf(t, "m_row", m); strings.Contains(got, "null") {
		t.Errorf("a table of one column has rows without a value: %s", got)
	}
}

func TestPredictionsHaveTheColumnsThatAModelAnswersWith(t *testing.T) {
	const labels = `{"type":"object","properties":{"p":{"type":["string","null"]}},"required":["p"]}`
	const open = `{"type":"object","additionalProperties":{"type":["string","null"]}}`
	const classes = `{"type":"object","properties":{"no":{"type":["number","null"],"format":"double"},"yes":{"type":["number","null"],"format":"double"}},` +
		`"required":["no","yes"]}`
	for _, test := range []struct {
		target  string
		classes []string
		want    string
	}{
		{"p", nil, labels},
		{"p", []string{"no", "yes"}, `{"anyOf":[` + labels + "," + classes + "]}"},
		{"p, q", nil, open},
		{"p, q", []string{"no", "yes"}, `{"anyOf":[` + open + "," + classes + "]}"},
	} {
		m := catalog.Model{Name: "m", Target: catalog.Column{Name: test.target, Dtype: "str"}, Classes: test.classes}
		if got := schemaOf(t, "m_prediction", m); got != test.want {
			t.Errorf("%s %v: got\n%s, want\n%s", test.target, test.classes, got, test.want)
		}
	}
	if text := string(Document(Gateway{}, nil)); !strings.Contains(strings.Join(strings.Fields(text), ""), `"enum":["labels","probabilities"]`) {
		t.Error("Model-Output takes labels, too")
	}
}

func TestADocumentSaysWhereATokenIsAskedFor(t *testing.T) {
	type operation struct {
		Security  *[]map[string][]string
		Responses map[string]json.RawMessage
	}
	for _, test := range []struct{ token, health bool }{{false, false}, {true, false}, {true, true}} {
		var document struct {
			Security   []map[string][]string
			Paths      map[string]map[string]json.RawMessage
			Components struct {
				Responses       map[string]json.RawMessage
				SecuritySchemes map[string]struct{ Type, Scheme string }
			}
		}
		if err := json.Unmarshal(Document(Gateway{Token: test.token, HealthToken: test.health}, nil), &document); err != nil {
			t.Fatal(err)
		}
		read := func(path, method string) (o operation) {
			if err := json.Unmarshal(document.Paths[path][method], &o); err != nil {
				t.Fatal(err)
			}
			return o
		}
		predict, health := read("/predict", "post"), read("/healthz", "get")
		scheme := document.Components.SecuritySchemes["token"]
		if got := scheme.Type == "http" && scheme.Scheme == "bearer" && len(document.Security) == 1 && document.Security[0]["token"] != nil; got != test.token {
			t.Errorf("%v: %v %v", test, scheme, document.Security)
		}
		if (predict.Responses["401"] != nil) != test.token || (document.Components.Responses["401"] != nil) != test.token || predict.Security != nil {
			t.Errorf("%v: %v", test, predict)
		}
		if (health.Security != nil) != (test.token && !test.health) {
			t.Errorf("%v: %v", test, health.Security)
		}
	}
}

func TestEveryModelHasANameOfItsOwn(t *testing.T) {
	models := []catalog.Model{
		{Name: "m", Version: "1"}, {Name: "m", Version: "2"}, {Name: "m_v2_"}, {Name: "m v2"}, {Name: "m_v2"}, {Name: "é", Version: "1"}, {Name: ""}, {Name: "7"},
	}
	if got := fmt.Sprint(names(models)); got != "[m m_v2 m_v2_ m_v2_v m_v2_v_ model__ model_ model_7]" {
		t.Errorf("got %s", got)
	}
}

func TestDocumentWithoutModels(t *testing.T) {
	text := string(Document(Gateway{URL: "http://localhost"}, nil))
	if !json.Valid([]byte(text)) || strings.Contains(text, "Model-Name") || strings.Contains(text, `"enum": []`) {
		t.Errorf("got %s", text)
	}
}

func TestOneModelHasToBeNamedIfItIsNotTheFirst(t *testing.T) {
	models := []catalog.Model{{Name: "m"}}
	for named, want := range map[bool]string{false: `"required": false`, true: `"required": true`} {
		_, after, _ := strings.Cut(string(Document(Gateway{URL: "http://localhost", Named: named}, models)), `"name": "Model-Name"`)
		if !strings.Contains(after[:60], want) {
			t.Errorf("named %v: %s", named, after[:60])
		}
	}
}
