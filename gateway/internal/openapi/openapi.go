// Package openapi describes the gateway, with the columns of the models behind it, as a document of OpenAPI 3.1.
package openapi

import (
	"encoding/json"
	"net/http"
	"strconv"
	"strings"
	"unicode"

	"example.com/predserver/gateway/internal/catalog"
)

// Gateway is what a document says of a gateway beside its models.
type Gateway struct {
	URL         string // such as http://127.0.0.1:8080
	Named       bool   // each call has to name its model; otherwise the first answers calls that name none
	Token       bool   // the gateway asks for a token
	HealthToken bool   // /healthz and /readyz ask for it, too
}

// Document returns the description of a gateway and of these models.
func Document(g Gateway, models []catalog.Model) []byte {
	schemas := object{}
	rows, predictions := []any{}, []any{}
	for i, name := range names(models) {
		schemas = append(schemas, member{name + "_row", row(models[i])}, member{name + "_prediction", prediction(models[i])})
		rows = append(rows, arrayOf(reference("schemas", name+"_row"), "One record for each row, for the model "+models[i].Name+"."))
		predictions = append(predictions, arrayOf(reference("schemas", name+"_prediction"), "One record for each row, of the model "+models[i].Name+"."))
	}
	schemas = append(schemas, shapes...)
	example := ""
	if len(models) > 0 {
		example = models[0].Example
	}
	components := object{{"schemas", schemas}, {"responses", refusals(g)}, {"headers", headers}}
	var open object // what an operation says that asks for no token, where others do
	if g.Token {
		components = append(components, member{"securitySchemes", object{{"token", object{{"type", "http"}, {"scheme", "bearer"}}}}})
		if !g.HealthToken {
			open = object{{"security", []any{}}}
		}
	}
	document := object{
		{"openapi", "3.1.0"},
		{"info", object{{"title", "Predictions"}, {"version", "1"}, {"description", about}}},
		{"servers", []any{object{{"url", g.URL}}}},
		{"paths", object{
			{"/predict", object{{"post", predict(g, models, anyOf(rows), anyOf(predictions), example)}}},
			{"/models", object{{"get", get("listModels", "All models, the first of which answers calls that name none", reference("schemas", "Catalog"))}}},
			{"/models/{name}", object{
				{"parameters", []any{pathParameter("name")}},
				{"get", get("describeModel", "One model", reference("schemas", "Model"))},
			}},
			{"/models/{name}/{version}", object{
				{"parameters", []any{pathParameter("name"), pathParameter("version")}},
				{"get", get("describeVersion", "One version of a model", reference("schemas", "Model"))},
			}},
			{"/healthz", object{{"get", append(get("isAlive", "Whether the gateway is alive", reference("schemas", "Status")), open...)}}},
			{"/readyz", object{{"get", append(get("isReady", "Whether predictions can be had", reference("schemas", "Status")), open...)}}},
		}},
		{"components", components},
	}
	if g.Token {
		document = append(document, member{"security", []any{object{{"token", []any{}}}}})
	}
	text, err := json.MarshalIndent(document, "", "  ")
	if err != nil {
		panic(err) // nothing but strings, numbers, lists and objects
	}
	return append(text, '\n')
}

const about = "Tables in, predictions out: one for each row, in the same order, as CSV or as JSON, whichever was sent. " +
	"Numbers pass through as they are written."

// predict describes POST /predict.
func predict(g Gateway, models []catalog.Model, rows, predictions any, example string) object {
	choice := func(header, what string, values []any, required bool) object {
		return object{
			{"name", header}, {"in", "header"}, {"required", required}, {"description", what},
			{"schema", object{{"type", "string"}, {"enum", values}}},
		}
	}
	parameters := []any{}
	if len(models) > 0 {
		parameters = append(parameters,
			choice("Model-Name", "The model; without it the server's first answers.", distinct(models, func(m catalog.Model) string { return m.Name }), g.Named),
			choice("Model-Version", "Its version; without it the server chooses.", distinct(models, func(m catalog.Model) string { return m.Version }), false))
	}
	parameters = append(parameters,
		choice("Model-Output", "Has a classifier answer with the probability of each class, in place of the label.", []any{"labels", "probabilities"}, false),
		header("Expect-Schema", "The schema_hash that the table was made for; another model does not predict.", text()),
		header("Request-Timeout-Ms", "A deadline that is shorter than the gateway's own.", object{{"type", "integer"}, {"minimum", 1}}),
		header("X-Request-Id", "The caller's own id for this request, for the logs.", object{{"type", "string"}, {"maxLength", 128}}))

	csv := func(what string) object {
		return object{{"schema", object{{"type", "string"}, {"description", what}}}}
	}
	responses := object{{"200", object{
		{"description", "One prediction for each row, in the same order."},
		{"headers", object{
			{"Server-Timing", reference("headers", "Server-Timing")}, {"Model-Identity", reference("headers", "Model-Identity")},
			{"Ignored-Columns", reference("headers", "Ignored-Columns")}, {"X-Request-Id", reference("headers", "X-Request-Id")},
		}},
		{"content", object{
			{"application/json", object{{"schema", predictions}}},
			{"text/csv", csv("A header, then one line for each prediction.")},
		}},
	}}}
	for _, status := range statuses(g) {
		responses = append(responses, member{strconv.Itoa(status.code), reference("responses", strconv.Itoa(status.code))})
	}
	return object{
		{"operationId", "predict"}, {"summary", "One prediction for each row of a table"}, {"parameters", parameters},
		{"requestBody", object{{"required", true}, {"content", object{
			{"application/json", object{{"schema", rows}}},
			{"text/csv", append(csv("A header that names the columns, then one line for each row. An empty field is a missing value."), member{"example", example})},
		}}}},
		{"responses", responses},
	}
}

// status is one that an error of /predict may come with; docs/gateway.md says more.
type status struct {
	code int
	when string
}

func statuses(g Gateway) []status {
	all := []status{{http.StatusBadRequest, "The table is at fault; violations name column and line."}}
	if g.Token {
		all = append(all, status{http.StatusUnauthorized, "There is no token, or none that the gateway knows."})
	}
	return append(all, others...)
}

// others are the statuses that any gateway has.
var others = []status{
	{http.StatusForbidden, "A page of another site had a browser send it."},
	{http.StatusNotFound, "There is no such model."},
	{http.StatusRequestTimeout, "The body came too slowly."},
	{http.StatusPreconditionFailed, "The model's schema is not the one that Expect-Schema names."},
	{http.StatusRequestEntityTooLarge, "Body, message or table are above a limit."},
	{http.StatusUnsupportedMediaType, "The media type, the charset or the coding is not understood."},
	{http.StatusMisdirectedRequest, "Host is no name of the gateway's."},
	{http.StatusTooManyRequests, "There is too much to do; Retry-After says when to come back."},
	{http.StatusInternalServerError, "The gateway failed."},
	{http.StatusBadGateway, "The prediction server failed, or does not take the gateway's calls."},
	{http.StatusServiceUnavailable, "The prediction server cannot be reached, or is stopping."},
	{http.StatusGatewayTimeout, "A deadline passed; the message says whose."},
}

// refusals are the responses to all those statuses.
func refusals(g Gateway) object {
	all := object{}
	for _, status := range statuses(g) {
		sent := object{{"X-Request-Id", reference("headers", "X-Request-Id")}}
		if status.code == http.StatusTooManyRequests {
			sent = append(sent, member{"Retry-After", reference("headers", "Retry-After")})
		}
		if status.code == http.StatusUnauthorized {
			sent = append(sent, member{"WWW-Authenticate", reference("headers", "WWW-Authenticate")})
		}
		all = append(all, member{strconv.Itoa(status.code), object{
			{"description", status.when}, {"headers", sent},
			{"content", object{{"application/json", object{{"schema", reference("schemas", "Error")}}}}},
		}})
	}
	return all
}

// get describes a GET without parameters of its own that answers with JSON.
func get(id, summary string, schema object) object {
	ok := object{{"description", summary + "."}, {"content", object{{"application/json", object{{"schema", schema}}}}}}
	failed := object{{"description", "An error."}, {"content", object{{"application/json", object{{"schema", reference("schemas", "Error")}}}}}}
	return object{{"operationId", id}, {"summary", summary}, {"responses", object{{"200", ok}, {"default", failed}}}}
}

func header(name, what string, schema object) object {
	return object{{"name", name}, {"in", "header"}, {"description", what}, {"schema", schema}}
}

func pathParameter(name string) object {
	return object{{"name", name}, {"in", "path"}, {"required", true}, {"schema", text()}}
}

// distinct returns all that the models have of something, once each.
func distinct(models []catalog.Model, of func(catalog.Model) string) []any {
	values, seen := []any{}, map[string]bool{}
	for _, m := range models {
		if value := of(m); !seen[value] {
			seen[value] = true
			values = append(values, value)
		}
	}
	return values
}

// names returns a name for each model that a component of the document may have, and that no other has: that of the model
// where that is possible, with its version if it is not the first one of its name.
func names(models []catalog.Model) []string {
	names, taken := make([]string, len(models)), map[string]bool{}
	for i, m := range models {
		name := plain(m.Name)
		if taken[name] {
			name = plain(m.Name + "_v" + m.Version)
		}
		for taken[name] {
			name += "_"
		}
		taken[name] = true
		names[i] = name
	}
	return names
}

// plain returns text with an underscore for each character that a component's name may not have. What a generator makes of
// it has to begin with a letter.
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if r < unicode.MaxASCII && (unicode.IsLetter(r) || unicode.IsDigit(r)) {
			return r
		}
		return '_'
	}, text)
	if text == "" || !unicode.IsLetter(rune(text[0])) {
		text = "model_" + text
	}
	return text
}
