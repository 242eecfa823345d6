// Package page draws the gateway's page for people: what is served, a form to try it, and what came of it. The page is one
// document without scripts, and asks for nothing else.
package page

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"net/http"
	"strings"

	"example.com/predserver/gateway/internal/catalog"
)

//go:embed page.html
var markup string

//go:embed page.css
var style string

// document escapes all that models, tables and errors hold: html/template knows what stands where.
var document = template.Must(template.New("page").Parse(markup))

// View is what a page shows. What is zero is left out.
type View struct {
	Models    []Link         // all that the server has, in its order
	Model     *catalog.Model // the one that the page is about; nil if the server could not be asked for it
	Note      string         // why there is no model, where that is no failure
	Curl      string         // a command that makes the call of the form
	Form      *Form          // nil if nothing can be asked at present
	Answer    *Answer
	Problem   *Problem
	RequestID string
}

// Link leads to the page of a model.
type Link struct {
	Text, URL string
	Current   bool
}

// Form is what the reader may send, and what stands in it.
type Form struct {
	Action        string
	Table         string
	MadeUp        bool   // the table is an example
	Schema        string // the hash of the schema that the reader sees
	Classifies    bool   // whether there are probabilities to be had
	Probabilities bool   // whether they are asked for
}

// Problem is an error as the reader sees it.
type Problem struct {
	Status     int
	Title      string
	Message    string
	RetryAfter int // seconds; 0 is none
	Violations []Violation
}

// Violation is what is wrong with a table.
type Violation struct {
	Column, Line, Text, Description string
}

// Style is the page's style sheet.
func (View) Style() template.CSS { return template.CSS(style) }

// Title names the page.
func (v View) Title() string {
	title := "Predictions"
	if v.Model != nil {
		title = v.Model.Name + " · " + title
	}
	if v.Problem != nil {
		title = "Error: " + title
	}
	return title
}

// Render returns the page. It fails if the template does.
func (v *View) Render() (string, error) {
	var out strings.Builder
	err := document.Execute(&out, v)
	return out.String(), err
}

// Header returns what a browser must know about the page: that nothing in it runs or is fetched, that it posts to nobody
// else, stands in no other page, and is not to be kept.
func Header() http.Header {
	sum := sha256.Sum256([]byte(style))
	return http.Header{
		"Content-Type": {"text/html; charset=utf-8"},
		"Content-Security-Policy": {"default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) +
			"'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'"},
		"Cross-Origin-Resource-Policy": {"same-origin"},
		// With no-referrer, browsers send the form with Origin: null, and the gateway would take it for another site's.
		"Referrer-Policy": {"same-origin"},
		"Cache-Control":   {"no-store"},
		"Vary":            {"Accept"},
	}
}
