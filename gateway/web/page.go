package web

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"google.golang.org/grpc/metadata"

	"example.com/predserver/gateway/internal/catalog"
	"example.com/predserver/gateway/internal/page"
	"example.com/predserver/gateway/internal/problem"
	"example.com/predserver/generated/predpb"
)

// page answers GET /: with the page, or with the catalog if the client would rather have JSON.
func (h *Handler) page(r *http.Request, control *http.ResponseController) (answer, error) {
	if !wantsPage(r.Header) {
		a, err := h.models(r, control)
		if err == nil {
			a.header.Set("Vary", "Accept")
		}
		return a, err
	}
	view := page.View{RequestID: idOf(r.Context())}
	refused := answer{page: refusal(&view, "")}
	if err := h.guard.check(r); err != nil {
		return refused, err
	}
	if err := h.show(&view, r, "", ""); err != nil {
		return refused, err
	}
	return pageOf(&view)
}

// refusal returns what an error looks like in a view. The table is the one that was sent, if any.
func refusal(view *page.View, table string) func(*problem.Error) answer {
	return func(e *problem.Error) answer {
		view.Problem = page.NewProblem(e, table)
		a, err := pageOf(view)
		if err != nil {
			return errorBody(e, view.RequestID) // the error counts, however it looks
		}
		return a
	}
}

// show has the view show what is served, and a form. The form has the table, or without one an example; the call from a
// terminal has the table that was sent, or else the example.
func (h *Handler) show(view *page.View, r *http.Request, table, sent string) error {
	choice, err := choiceOf(r)
	view.Form = &page.Form{Action: address(choice), Table: table}
	var description *predpb.DescribeResponse
	var model catalog.Model
	if err == nil {
		description, model, err = h.describe(r.Context(), choice)
	}
	switch {
	case err == nil:
		view.Model = &model
		view.Form.Schema, view.Form.Classifies = model.SchemaHash, len(model.Classes) > 0
		if table == "" {
			view.Form.Table, view.Form.MadeUp = model.Example, true
		}
		if sent == "" {
			sent = model.Example
		}
		view.Models = links(description.GetName(), description.GetVersion(), catalog.Choices(description))
	case errors.Is(err, errNotDescribed):
		view.Note = errNotDescribed.Message
	default:
		if table == "" {
			view.Form = nil // there is nothing that the reader would lose
		}
		return err
	}
	view.Curl = catalog.Curl(baseOf(r), choice, h.options.Authorize != nil, sent)
	return nil
}

// links lead to the page of each model. The first needs no name.
func links(name, version string, choices []catalog.Choice) []page.Link {
	seen := map[string]int{}
	for _, choice := range choices {
		seen[choice.Name]++
	}
	var all []page.Link
	for i, choice := range choices {
		link := page.Link{Text: choice.Name, URL: address(choice), Current: choice == (catalog.Choice{Name: name, Version: version})}
		if i == 0 {
			link.URL = "/"
		}
		if seen[choice.Name] > 1 {
			link.Text = fmt.Sprintf("%s v%s", choice.Name, choice.Version)
		}
		all = append(all, link)
	}
	return all
}

// address returns where the page of a model is.
func address(choice catalog.Choice) string {
	query := url.Values{}
	if choice.Name != "" {
		query.Set("model", choice.Name)
	}
	if choice.Version != "" {
		query.Set("version", choice.Version)
	}
	if len(query) == 0 {
		return "/"
	}
	return "/?" + query.Encode()
}

// pageOf returns the answer that shows a view.
func pageOf(view *page.View) (answer, error) {
	text, err := view.Render()
	if err != nil {
		return answer{}, problem.Failure("the page: %v", err)
	}
	a := whole("", text)
	for name, values := range page.Header() {
		a.header[name] = values
	}
	return a, nil
}

// idOf returns the id of the request of ctx.
func idOf(ctx context.Context) string {
	md, _ := metadata.FromOutgoingContext(ctx)
	return first(md, "x-request-id")
}
