package prove

import (
	"bytes"
	_ "embed"
	"fmt"
	"html/template"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/coatcheck/coatcheck/cmd/coatcheck/internal/fleet"
)

//go:embed page.html
var pageHTML string

var pageTemplate = template.Must(template.New("page").Parse(pageHTML))

// Page writes results as a page of HTML that needs nothing else.
func Page(results []*Result) []byte {
	type section struct {
		*Result
		Title string
		Chart chart
		Rows  [][2]string
	}
	var sections []section
	for _, r := range results {
		sections = append(sections, section{r, names[r.Sessions], newChart(r), rows(r)})
	}
	var b bytes.Buffer
	_ = pageTemplate.Execute(&b, struct { // to memory, of types that fit
		Sections []section
		Compared bool
		Seed     uint64
		Flags    string
		Notes    string
	}{sections, len(results) > 1, results[0].Seed, results[0].Settings.flags(), notes})
	return b.Bytes()
}

// rows are what was counted.
func rows(r *Result) [][2]string {
	n := func(v int) string { return fmt.Sprint(v) }
	return [][2]string{
		{"journeys", n(r.Journeys)},
		{"of them interrupted", n(r.Interrupted)},
		{"requests", n(r.Requests)},
		{"servers killed", n(r.Kills)},
		{"sign-outs", n(r.SignOuts)},
		{"lost items", n(r.LostItems)},
		{"surplus items", n(r.SurplusItems)},
		{"wrong users", n(r.WrongUsers)},
		{"failed requests", n(r.FailedRequests)},
		{"slow requests", n(r.SlowRequests)},
		{"unrepeatable", n(r.UnrepeatableLost)},
		{"p50", short(r.Latency.P50)},
		{"p99", short(r.Latency.P99)},
	}
}

// A chart is a timeline in SVG: three plots above each other over the same seconds.
type chart struct {
	Width, Height int
	Plots         []plot
	Marks         []mark
	Bands         []band // times in which the store was down, or slow
	Down, Slow    bool   // there are such
	Ticks         []tick // of the seconds
}

type plot struct {
	Title  string
	Y, H   float64
	Most   string // the highest value
	Areas  []area
	Lines  []line
	Bars   []bar
	Legend string
}

type area struct {
	Path string
	Hue  int
	Name string
}

type line struct{ Path, Class string }

type bar struct{ X, Y, W, H float64 }

type band struct {
	X, W  float64
	Class string
	Title string
}

type mark struct {
	X     float64
	Class string
	Title string
}

type tick struct {
	X    float64
	Text string
}

const (
	chartWidth = 960
	left       = 56
	right      = 12
	plotHeight = 120
	plotGap    = 34
)

func newChart(r *Result) chart {
	c := chart{Width: chartWidth, Height: 3*(plotHeight+plotGap) + 24}
	if len(r.Timeline) == 0 || r.Seconds <= 0 {
		return c
	}
	width := r.Seconds / float64(len(r.Timeline))
	if len(r.Timeline) > 1 {
		width = r.Timeline[1].At - r.Timeline[0].At
	}
	total := max(r.Seconds, r.Timeline[len(r.Timeline)-1].At+width)
	x := func(at float64) float64 { return left + at/total*(chartWidth-left-right) }
	y := func(plot int) float64 { return float64(plot)*(plotHeight+plotGap) + 22 }

	// Requests a second, by server, on top of each other.
	most := 1.0
	first := map[string]float64{}
	for _, m := range r.Timeline {
		sum := 0
		for name, n := range m.Requests {
			sum += n
			if _, ok := first[name]; !ok {
				first[name] = m.At
			}
		}
		most = max(most, float64(sum)/width)
	}
	servers := slices.SortedFunc(maps.Keys(first), func(a, b string) int {
		if first[a] != first[b] {
			return int(math.Copysign(1, first[a]-first[b]))
		}
		return strings.Compare(a, b)
	})
	p := plot{Title: "requests a second, by server", Y: y(0), H: plotHeight, Most: fmt.Sprintf("%.0f", most)}
	base := make([]float64, len(r.Timeline))
	for i, name := range servers {
		var up strings.Builder
		var down []string // the same way back
		from, to := -1, -1
		for j, m := range r.Timeline {
			if m.Requests[name] > 0 {
				if from < 0 {
					from = j
				}
				to = j
			}
		}
		for j := max(0, from-1); j <= min(len(base)-1, to+1); j++ {
			top := base[j] + float64(r.Timeline[j].Requests[name])/width
			px := x(r.Timeline[j].At + width/2)
			fmt.Fprintf(&up, "L%.1f %.1f", px, p.Y+p.H*(1-top/most))
			down = append(down, fmt.Sprintf("L%.1f %.1f", px, p.Y+p.H*(1-base[j]/most)))
			base[j] = top
		}
		slices.Reverse(down)
		p.Areas = append(p.Areas, area{"M" + up.String()[1:] + strings.Join(down, "") + "Z", i * 47 % 360, name})
	}
	c.Plots = append(c.Plots, p)

	// Servers that are ready, and requests that failed.
	most, worst := 1.0, 1
	for _, m := range r.Timeline {
		most, worst = max(most, float64(m.Ready)), max(worst, m.Failed)
	}
	p = plot{
		Title: "servers ready", Y: y(1), H: plotHeight, Most: fmt.Sprintf("%.0f", most),
		Legend: fmt.Sprintf("bars: requests without an answer from the shop, up to %d at a time", worst),
	}
	var b strings.Builder
	for i, m := range r.Timeline {
		py := p.Y + p.H*(1-float64(m.Ready)/most)
		fmt.Fprintf(&b, "%s%.1f %.1fL%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], x(m.At), py, x(m.At+width), py)
		if m.Failed > 0 {
			h := p.H * float64(m.Failed) / float64(worst)
			p.Bars = append(p.Bars, bar{x(m.At), p.Y + p.H - h, max(1, x(m.At+width)-x(m.At)-0.5), h})
		}
	}
	p.Lines = append(p.Lines, line{b.String(), "ready"})
	c.Plots = append(c.Plots, p)

	// How long requests took.
	most = 1
	for _, m := range r.Timeline {
		most = max(most, m.P99)
	}
	p = plot{Title: "milliseconds", Y: y(2), H: plotHeight, Most: fmt.Sprintf("%.0f", most), Legend: "strong: p50; faint: p99"}
	for _, l := range []struct {
		class string
		of    func(Moment) float64
	}{{"p99", func(m Moment) float64 { return m.P99 }}, {"p50", func(m Moment) float64 { return m.P50 }}} {
		b.Reset()
		for i, m := range r.Timeline {
			fmt.Fprintf(&b, "%s%.1f %.1f", map[bool]string{true: "M", false: "L"}[i == 0], x(m.At+width/2), p.Y+p.H*(1-l.of(m)/most))
		}
		p.Lines = append(p.Lines, line{b.String(), l.class})
	}
	c.Plots = append(c.Plots, p)

	if began := r.began; !began.IsZero() {
		for _, e := range r.Events {
			at := e.Time.Sub(began).Seconds()
			if at < 0 || at > total {
				continue
			}
			switch e.Kind {
			case fleet.Killed, fleet.Died:
				c.Marks = append(c.Marks, mark{x(at), "kill", fmt.Sprintf("%.1f s: %s %s", at, e.Worker, e.Kind)})
			case fleet.Scaled:
				c.Marks = append(c.Marks, mark{x(at), "scale", fmt.Sprintf("%.1f s: %s", at, e.Detail)})
			}
		}
	}
	for _, o := range r.Outages {
		c.Bands = append(c.Bands, band{x(o.From), max(1, x(o.To)-x(o.From)), "down", fmt.Sprintf("%.1f s: the store was down until %.1f s", o.From, o.To)})
	}
	c.Down = len(r.Outages) > 0
	if r.Settings.Slow > 0 && r.Sessions == External {
		from, to := slowBegins*r.Settings.Duration, slowEnds*r.Settings.Duration
		c.Slow = true
		c.Bands = append(c.Bands, band{x(from), x(to) - x(from), "slow", fmt.Sprintf("%.1f s: the store was slow until %.1f s", from, to)})
	}
	every := 1.0
	for _, e := range []float64{1, 2, 5, 10, 20, 30, 60, 120, 300, 600} {
		every = e
		if total/e <= 12 {
			break
		}
	}
	for at := 0.0; at <= total; at += every {
		c.Ticks = append(c.Ticks, tick{x(at), fmt.Sprintf("%.0f s", at)})
	}
	return c
}
