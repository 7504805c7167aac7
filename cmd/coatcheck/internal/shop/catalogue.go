package shop

import (
	"embed"
	"fmt"
	"html/template"
)

type product struct {
	SKU   string
	Name  string
	Note  string
	Cents int
}

// catalogue is what the shop sells, in the order of its page.
var catalogue = []product{
	{"apple", "Apple", "Crisp and a little sour", 45},
	{"pear", "Pear", "Soft, ripe on Thursday", 60},
	{"plum", "Plum", "Dark, from the old tree", 25},
	{"cherry", "Cherries", "A pair, still on the stem", 15},
	{"lemon", "Lemon", "Unwaxed, with a leaf", 55},
	{"quince", "Quince", "Hard as wood, smells of roses", 90},
}

func inCatalogue(sku string) bool {
	for _, p := range catalogue {
		if p.SKU == sku {
			return true
		}
	}
	return false
}

//go:embed icons
var iconFiles embed.FS

// icons are the pictures of the products by SKU.
var icons = func() map[string]template.HTML {
	m := make(map[string]template.HTML)
	for _, p := range catalogue {
		svg, err := iconFiles.ReadFile("icons/" + p.SKU + ".svg")
		if err != nil {
			panic(err) // the binary was built without it
		}
		m[p.SKU] = template.HTML(svg)
	}
	return m
}()

// Icon returns the product's picture.
func (p product) Icon() template.HTML { return icons[p.SKU] }

// Price returns the price of one.
func (p product) Price() string { return euros(p.Cents) }

func euros(cents int) string { return fmt.Sprintf("€%d.%02d", cents/100, cents%100) }
