// Copyright The harness authors.
// SPDX-License-Identifier: Apache-2.0

package reports

import (
	"cmp"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"
)

// Sizes of charts in SVG user units.
const (
	barWidth    = 240
	chartWidth  = 640
	chartLeft   = 56
	chartRight  = 24 // half the width of a last tick's label
	laneHeight  = 96
	laneGap     = 22
	chartPoints = 400 // most points drawn for one line
)

// barView is a bar's row: the positions of count, band and expectation on a common scale.
type barView struct {
	Bar
	Width, Low, Span, Mark float64
}

func viewBars(bars []Bar) []barView {
	var top float64
	for _, b := range bars {
		top = max(top, b.Count, b.Expected)
	}
	for _, b := range bars {
		// A band without an upper limit must not squeeze every bar to nothing.
		top = max(top, min(b.High, 2*max(top, 1)))
	}
	if top <= 0 {
		top = 1
	}
	at := func(v float64) float64 { return round(barWidth * min(max(v/top, 0), 1)) }
	out := make([]barView, len(bars))
	for i, b := range bars {
		out[i] = barView{Bar: b, Width: at(b.Count), Low: at(b.Low), Span: max(1, round(at(b.High)-at(b.Low))), Mark: min(at(b.Expected), barWidth-1)}
	}
	return out
}

// chart is lines over one time axis, in one lane for each unit so that different units need no second axis.
type chart struct {
	Title                      string
	Width, Height, Left, Right int
	Lanes                      []lane
	Ticks                      []tick
	Rows                       []chartRow // the same in words, beside the picture
}

type lane struct {
	Unit, Top, Bottom string
	Y, Base           int
	Lines             []chartLine
}

type chartLine struct{ Name, Points, Color, Dash string }

type tick struct {
	X     float64
	Label string
}

type chartRow struct {
	Name, Unit, First, Min, Max, Last, Color, Dash string
}

// Colours that can be told apart by people who do not see red or green; the dash tells lines apart without any colour.
var (
	lineColors = []string{"#0072b2", "#d55e00", "#009e73", "#cc79a7", "#8a6d00", "#56b4e9"}
	lineDashes = []string{"none", "6 3", "2 3", "8 3 2 3", "1 2", "12 4"}
)

// newChart draws the series that have points; false when there are none.
func newChart(title string, series []Series) (chart, bool) {
	series = slices.DeleteFunc(slices.Clone(series), func(s Series) bool { return len(s.Points) == 0 })
	if len(series) == 0 {
		return chart{}, false
	}
	from, to := math.Inf(1), math.Inf(-1)
	var units []string
	for i := range series {
		series[i].Points = slices.Clone(series[i].Points)
		slices.SortStableFunc(series[i].Points, func(a, b Point) int { return cmp.Compare(a.At, b.At) })
		from, to = min(from, series[i].Points[0].At), max(to, series[i].Points[len(series[i].Points)-1].At)
		if !slices.Contains(units, series[i].Unit) {
			units = append(units, series[i].Unit)
		}
	}
	if to <= from {
		to = from + 1
	}
	c := chart{Title: title, Width: chartWidth, Left: chartLeft, Right: chartWidth - chartRight}
	x := scale(from, to, chartLeft, chartWidth-chartRight)
	for i := range 5 {
		part := float64(i) / 4
		at := from*(1-part) + to*part // the difference of two large numbers may overflow
		c.Ticks = append(c.Ticks, tick{X: x(at), Label: num(at) + " s"})
	}
	n := 0
	for i, unit := range units {
		l := lane{Unit: firstLine(unit, ""), Y: laneGap + i*(laneHeight+laneGap)}
		l.Base = l.Y + laneHeight
		low, high := 0.0, 0.0 // a lane always shows zero: half an axis makes noise look like change
		for _, s := range series {
			for _, p := range s.Points {
				if s.Unit == unit {
					low, high = min(low, p.Value), max(high, p.Value)
				}
			}
		}
		if high <= low {
			high = low + 1
		}
		l.Top, l.Bottom = num(high), num(low)
		y := scale(low, high, float64(l.Base), float64(l.Y))
		for _, s := range series {
			if s.Unit != unit {
				continue
			}
			color, dash := lineColors[n%len(lineColors)], lineDashes[n%len(lineDashes)]
			n++
			name := firstLine(s.Name, "unnamed")
			l.Lines = append(l.Lines, chartLine{Name: name, Color: color, Dash: dash, Points: path2d(thin(s.Points), steps(unit), x, y)})
			c.Rows = append(c.Rows, rowOf(name, l.Unit, color, dash, s.Points))
		}
		c.Lanes = append(c.Lanes, l)
		c.Height = l.Base + laneGap
	}
	return c, true
}

// steps says whether a unit counts things: their number jumps, and a slope between two readings would show halves.
func steps(unit string) bool { return unit == "replicas" || unit == "pods" }

func rowOf(name, unit, color, dash string, points []Point) chartRow {
	least, most := points[0].Value, points[0].Value
	for _, p := range points {
		least, most = min(least, p.Value), max(most, p.Value)
	}
	return chartRow{Name: name, Unit: unit, Color: color, Dash: dash, First: num(points[0].Value), Min: num(least), Max: num(most), Last: num(points[len(points)-1].Value)}
}

// thin keeps the lowest and the highest of each stretch when there are more points than can be seen, so that no spike is lost.
func thin(points []Point) []Point {
	if len(points) <= chartPoints {
		return points
	}
	out := make([]Point, 0, chartPoints)
	size := (2*len(points) + chartPoints - 1) / chartPoints
	for part := range slices.Chunk(points, size) {
		a, b := part[0], part[0]
		for _, p := range part {
			if p.Value < a.Value {
				a = p
			}
			if p.Value > b.Value {
				b = p
			}
		}
		if a.At > b.At {
			a, b = b, a
		}
		out = append(out, a, b)
	}
	return out
}

func path2d(points []Point, steps bool, x, y func(float64) float64) string {
	var b strings.Builder
	for i, p := range points {
		if steps && i > 0 {
			fmt.Fprintf(&b, " %s,%s", coord(x(p.At)), coord(y(points[i-1].Value)))
		}
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(coord(x(p.At)) + "," + coord(y(p.Value)))
	}
	return b.String()
}

// scale maps [from, to] to [a, b]; it divides first, since the range of two large numbers may overflow.
func scale(from, to, a, b float64) func(float64) float64 {
	span := to/2 - from/2
	return func(v float64) float64 {
		if span <= 0 { // equal up to rounding
			return a
		}
		return round(a + (b-a)*min(max((v/2-from/2)/span, 0), 1))
	}
}

func round(v float64) float64 { return math.Round(v*10) / 10 }

func coord(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }
