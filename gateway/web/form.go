package web

import (
	"bytes"
	"errors"
	"io"
	"mime"
	"mime/multipart"
	"net/http"
	"time"

	"example.com/predserver/gateway/internal/budget"
	"example.com/predserver/gateway/internal/csv"
	"example.com/predserver/gateway/internal/page"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/gateway/internal/text"
)

// mediaParts is what a browser sends a form with a file as.
const mediaParts = "multipart/form-data"

// filled is what a reader sent with the page's form.
type filled struct {
	table    []byte
	pasted   []byte // the text, also where a file goes in place of it
	schema   string // the hash of the schema that the reader saw
	output   string
	download bool
}

// form answers POST /, which the page's own form sends: with the page, and on it the predictions or what is wrong. It is held
// whole, and under the same limits as any table.
func (h *Handler) form(r *http.Request, control *http.ResponseController) (answer, error) {
	q := &question{Request: r, start: time.Now(), format: formatCSV, mediaType: "text/csv", timeout: h.options.Timeout, kept: true}
	form := &filled{}
	a, err := h.settle(q, control, func() (answer, error) { return h.answerToForm(q, form, control) })
	if !wantsPage(r.Header) || form.download && err == nil {
		if err == nil {
			a.header.Set("Content-Disposition", `attachment; filename="predictions.csv"`)
			a.header.Set("Cache-Control", "no-store")
		}
		return a, err
	}

	view := &page.View{RequestID: idOf(r.Context())}
	if q.ctx != nil { // neither the host nor the site was refused
		if unknown := h.show(view, r, echo(form), text.Of(form.table)); unknown != nil {
			view.Note = problemOf(unknown).Message // which is not what the reader asked for
		}
		if view.Form != nil {
			view.Form.Probabilities = form.output != ""
		}
	}
	if err != nil {
		a.page = refusal(view, text.Of(form.table))
		return a, err
	}
	view.Answer = page.NewAnswer(text.Of(form.table), a.body,
		a.header.Get("Ignored-Columns"), a.header.Get("Model-Identity"), a.header.Get("Server-Timing"))
	shown, err := pageOf(view)
	if err != nil {
		return answer{page: refusal(&page.View{RequestID: view.RequestID}, "")}, err
	}
	for _, name := range []string{"Server-Timing", "Model-Identity", "Ignored-Columns"} {
		if value := a.header.Get(name); value != "" {
			shown.header.Set(name, value)
		}
	}
	return shown, nil
}

// answerToForm reads the form, and asks.
func (h *Handler) answerToForm(q *question, form *filled, control *http.ResponseController) (answer, error) {
	if err := h.guard.check(q.Request); err != nil {
		return answer{}, err
	}
	if err := q.watch(http.Header{}); err != nil {
		return answer{}, err
	}
	mediaType, parameters, err := mime.ParseMediaType(q.Header.Get("Content-Type"))
	if err != nil || mediaType != mediaParts || parameters["boundary"] == "" {
		return answer{}, problem.Unsupported("/ takes the page's own form, as %s; a program posts its table to /predict.", mediaParts)
	}
	if q.zipped, err = zipped(q.Header); err != nil {
		return answer{}, err
	}
	share, body, err := h.begin(q, h.options.MaxBodyBytes, control)
	if err != nil {
		return answer{}, err
	}
	sent, err := readTwice(q, limit(body, h.options.MaxBodyBytes), share)
	if err != nil {
		return answer{}, err
	}
	if err := form.read(sent, parameters["boundary"], share); err != nil {
		return answer{}, err
	}

	choice, err := choiceOf(q.Request)
	if err != nil {
		return answer{}, err
	}
	chosen := http.Header{}
	chosen.Set("Model-Name", choice.Name)
	chosen.Set("Model-Version", choice.Version)
	chosen.Set("Model-Output", form.output)
	chosen.Set("Expect-Schema", form.schema)
	ctx, err := withChoices(q.ctx, chosen)
	if err != nil {
		return answer{}, err
	}
	q.ctx = ctx
	if err := checkCSV(form.table, q.mediaType); err != nil {
		return answer{}, err
	}
	table := text.Of(form.table)
	rows, counted := csv.CountRows(table)
	return h.ask(q, table, rows, counted, share, func() {})
}

// mostFields bounds how many fields a form may have: the page's has five.
const mostFields = 10

// read takes the form's fields from what was sent. The share has room for a copy of it, and read takes what the message
// needs that the table becomes.
func (f *filled) read(sent []byte, boundary string, share *budget.Share) error {
	parts := multipart.NewReader(bytes.NewReader(sent), boundary)
	for fields := 0; ; fields++ {
		part, err := parts.NextRawPart()
		if errors.Is(err, io.EOF) && fields > 0 {
			break
		}
		if err != nil || fields == mostFields {
			return badForm(err)
		}
		value, err := io.ReadAll(part)
		if err != nil {
			return badForm(err)
		}
		switch part.FormName() {
		case "table":
			// Browsers send each line end of a text as CRLF. Inside quotes it is a part of the cell, whose writer typed no CR.
			f.pasted = bytes.ReplaceAll(value, []byte("\r\n"), []byte("\n"))
		case "file":
			f.table = value
		case "schema":
			f.schema = string(value)
		case "output":
			f.output = string(value)
		case "download":
			f.download = true
		}
	}
	if len(f.table) == 0 { // a browser sends the field of a file also where none is chosen
		f.table = f.pasted
	}
	return share.Grow(int64(len(f.table)))
}

func badForm(err error) error {
	e := problem.BadRequest("The form cannot be read; send it from the page, or a table to /predict.")
	if err != nil {
		e.Reason = "the form: " + err.Error()
	}
	return e
}

// mostEchoed is how long a text may be that stands in the form again.
const mostEchoed = 256 << 10

// echo returns what stands in the form again: what the reader wrote, unless a page would be long with it.
func echo(form *filled) string {
	if len(form.pasted) > mostEchoed {
		return ""
	}
	return string(bytes.ToValidUTF8(form.pasted, []byte("\uFFFD")))
}
