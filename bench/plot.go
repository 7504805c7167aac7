package main

import (
	"fmt"
	"html"
	"strings"
)

// A plot is bars in the order of their length, a panel above the other. Its
// colours follow those of the page around it, where the browser tells.
const (
	plotWidth = 760
	labelEnd  = 300
	barStart  = 310
	barWidth  = 370
	barHeight = 18
	barStep   = 25
)

const plotStyle = `
text { font: 13px system-ui, -apple-system, "Segoe UI", sans-serif; fill: #1f2328; }
.title { font-weight: 600; font-size: 15px; }
.label { text-anchor: end; }
.quiet { fill: #59636e; }
.ours { fill: #0969da; }
.peer { fill: #afb8c1; }
@media (prefers-color-scheme: dark) {
text { fill: #f0f6fc; }
.quiet { fill: #9198a1; }
.ours { fill: #4493f8; }
.peer { fill: #656c76; }
}
`

// A panel shows the rates of peers in a section.
type panel struct {
	title, section string
	peers          []string
}

// plot returns an SVG of the rates.
func plot(panels []panel, res *results) string {
	var b strings.Builder
	y := 30
	for _, p := range panels {
		var rows []*rowResult
		most := 0.0
		for _, name := range p.peers {
			if r := res.find(p.section, name); r != nil {
				rows = append(rows, r)
				most = max(most, r.Rate)
			}
		}
		if len(rows) == 0 {
			continue
		}
		fmt.Fprintf(&b, `<text class="title" x="10" y="%d">%s</text>`+"\n", y, html.EscapeString(p.title))
		y += 12
		for _, r := range rows {
			class := "peer"
			if strings.HasPrefix(r.Peer, coatcheck) {
				class = "ours"
			}
			length := max(r.Rate/most*barWidth, 1)
			fmt.Fprintf(&b, `<text class="label" x="%d" y="%d">%s</text>`, labelEnd, y+14, html.EscapeString(r.Peer))
			fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%.1f" height="%d" rx="2"/>`, class, barStart, y, length, barHeight)
			fmt.Fprintf(&b, `<text x="%.1f" y="%d">%s</text>`+"\n", barStart+length+6, y+14, thousands(r.Rate))
			y += barStep
		}
		y += 28
	}
	fmt.Fprintf(&b, `<text class="quiet" x="10" y="%d">Requests per second, idle timeout on, %d at once, %d processors for app, load and %s.</text>`+"\n",
		y, concurrency, res.Machine.CPUs, html.EscapeString(res.Settings.Kind))
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" role="img" aria-label="Requests per second of Coatcheck and its peers">
<style>%[3]s</style>
%[4]s</svg>
`, plotWidth, y+16, plotStyle, b.String())
}
