package openapi

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"

	"example.com/predserver/gateway/internal/catalog"
)

// object is a JSON object whose members stay in their order.
type object []member

type member struct {
	name  string
	value any
}

// MarshalJSON implements json.Marshaler.
func (o object) MarshalJSON() ([]byte, error) {
	var out bytes.Buffer
	out.WriteByte('{')
	for i, m := range o {
		if i > 0 {
			out.WriteByte(',')
		}
		for _, part := range []any{m.name, m.value} {
			text, err := json.Marshal(part)
			if err != nil {
				return nil, err
			}
			out.Write(text)
			out.WriteByte(':')
		}
		out.Truncate(out.Len() - 1)
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

func text() object { return object{{"type", "string"}} }

func reference(kind, name string) object {
	return object{{"$ref", "#/components/" + kind + "/" + name}}
}

func arrayOf(items object, what string) object {
	return object{{"type", "array"}, {"items", items}, {"minItems", 1}, {"description", what}}
}

// anyOf returns the schema of whatever fits one of several, and of an array of records where there are none.
func anyOf(schemas []any) any {
	switch len(schemas) {
	case 0:
		return arrayOf(object{{"type", "object"}}, "One record for each row.")
	case 1:
		return schemas[0]
	}
	return object{{"anyOf", schemas}}
}

// row describes a record of a table for the model. Columns that the model does not know are ignored.
func row(m catalog.Model) object {
	properties, required := object{}, []any{}
	for _, c := range m.Columns {
		schema := valueOf(c)
		if c.Nullable && len(m.Columns) > 1 { // in a table of one column, a row without a value would be no row
			schema = orNull(schema)
		}
		properties = append(properties, member{c.Name, append(schema, unit(c)...)})
		required = append(required, c.Name)
	}
	return object{{"type", "object"}, {"properties", properties}, {"required", required}}
}

// prediction describes a record of the predictions: the target or, with Model-Output, the probability of each class.
func prediction(m catalog.Model) object {
	target := append(predicted(m.Target), unit(m.Target)...)
	labels := object{{"type", "object"}, {"properties", object{{m.Target.Name, target}}}, {"required", []any{m.Target.Name}}}
	if strings.Contains(m.Target.Name, ", ") {
		// A model of several targets has their names in one text. A name may hold a comma, so the columns are not known.
		labels = object{{"type", "object"}, {"additionalProperties", target}}
	}
	if len(m.Classes) == 0 {
		return labels
	}
	properties, required := object{}, []any{}
	for _, class := range m.Classes {
		properties = append(properties, member{class, orNull(valueOf(catalog.Column{Dtype: "float64"}))})
		required = append(required, class)
	}
	return object{{"anyOf", []any{labels, object{{"type", "object"}, {"properties", properties}, {"required", required}}}}}
}

// predicted describes a value of the predictions.
func predicted(c catalog.Column) object {
	if strings.HasPrefix(c.Dtype, "float") {
		return object{{"anyOf", []any{valueOf(c), object{{"type", "null"}}, object{{"type", "string"}, {"enum", []any{"inf", "-inf"}}}}}}
	}
	return orNull(valueOf(c))
}

func unit(c catalog.Column) object {
	if c.Unit == "" {
		return nil
	}
	return object{{"description", "In " + c.Unit + "."}}
}

// integers are the limits of types that JSON's own readers do not overflow.
var integers = map[string][2]int64{
	"int8": {-1 << 7, 1<<7 - 1}, "int16": {-1 << 15, 1<<15 - 1}, "int32": {-1 << 31, 1<<31 - 1},
	"uint8": {0, 1<<8 - 1}, "uint16": {0, 1<<16 - 1}, "uint32": {0, 1<<32 - 1},
}

// valueOf describes a value of a column that is not missing.
func valueOf(c catalog.Column) object {
	limits, limited := integers[c.Dtype]
	switch {
	case limited:
		return object{{"type", "integer"}, {"minimum", limits[0]}, {"maximum", limits[1]}}
	case c.Dtype == "int64":
		return object{{"type", "integer"}, {"format", "int64"}}
	case c.Dtype == "uint64":
		return object{{"type", "integer"}, {"minimum", 0}}
	case c.Dtype == "float32":
		return object{{"type", "number"}, {"format", "float"}}
	case strings.HasPrefix(c.Dtype, "float"):
		return object{{"type", "number"}, {"format", "double"}}
	case c.Dtype == "bool":
		return object{{"type", "boolean"}}
	}
	return text()
}

// orNull returns the schema, which begins with its type, for a value that may be missing.
func orNull(schema object) object {
	return append(object{{"type", []any{schema[0].value, "null"}}}, schema[1:]...)
}

// shapes are the schemas that do not depend on the models.
var shapes = object{
	{"Error", members(object{{"error", members(object{
		{"code", object{{"type", "string"}, {"description", "gRPC's name, such as INVALID_ARGUMENT."}}},
		{"message", object{{"type", "string"}, {"description", "A sentence for people."}}},
		{"request_id", text()},
		{"reason", object{{"type", "string"}, {"description", "For programs: OVERLOADED, TOO_LARGE, SCHEMA_CHANGED, or what else the prediction server names."}}},
		{"violations", object{{"type", "array"}, {"items", members(object{
			{"field", object{{"type", "string"}, {"description", "The column."}}},
			{"description", object{{"type", "string"}, {"description", "The line, and what is wrong there."}}},
		})}}},
	}, "reason", "violations")}})},
	{"Catalog", members(object{{"models", object{{"type", "array"}, {"items", reference("schemas", "Model")}}}})},
	{"Model", members(object{
		{"name", text()}, {"version", text()},
		{"columns", object{{"type", "array"}, {"items", reference("schemas", "Column")}}},
		{"target", reference("schemas", "Column")},
		{"classes", texts}, {"engine", text()}, {"parity", text()}, {"threads", text()}, {"encodings", texts},
		{"scores", object{{"type", "object"}, {"additionalProperties", text()}}},
		{"schema_hash", text()}, {"content_digest", text()}, {"example", text()},
	})},
	{"Column", members(object{
		{"name", text()}, {"dtype", text()}, {"nullable", object{{"type", "boolean"}}}, {"unit", text()},
	})},
	{"Status", members(object{{"status", text()}})},
}

var texts = object{{"type", "array"}, {"items", text()}}

// headers are those of replies.
var headers = object{
	{"Server-Timing", object{{"description", "Where the time went, in milliseconds."}, {"schema", text()}}},
	{"Model-Identity", object{{"description", "Which model answered: NAME/VERSION/SCHEMA-HASH/CONTENT-DIGEST."}, {"schema", text()}}},
	{"Ignored-Columns", object{{"description", "The table's columns that the model does not know, percent-encoded, with commas in between."}, {"schema", text()}}},
	{"X-Request-Id", object{{"description", "The id of this request in the logs."}, {"schema", text()}}},
	{"WWW-Authenticate", object{{"description", "That a token is asked for, and whether the one sent was at fault."}, {"schema", text()}}},
	{"Retry-After", object{{"description", "When to come back, in seconds."}, {"schema", object{{"type", "integer"}}}}},
}

// members returns the schema of an object that always has these members, but for the optional ones.
func members(properties object, optional ...string) object {
	required := []any{}
	for _, p := range properties {
		if !slices.Contains(optional, p.name) {
			required = append(required, p.name)
		}
	}
	return object{{"type", "object"}, {"properties", properties}, {"required", required}}
}
