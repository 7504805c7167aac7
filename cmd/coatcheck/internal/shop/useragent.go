package shop

import "strings"

type agentWord struct{ token, name string }

// Nearly every browser claims to be the ones before it, so the order counts.
var (
	browsers = []agentWord{
		{"Edg", "Edge"}, // Edg/, EdgA/, EdgiOS/
		{"OPR/", "Opera"},
		{"SamsungBrowser/", "Samsung Internet"},
		{"Firefox/", "Firefox"},
		{"FxiOS/", "Firefox"},
		{"CriOS/", "Chrome"},
		{"Chrome/", "Chrome"},
		{"Safari/", "Safari"},
		{"curl/", "curl"},
		{"Wget/", "Wget"},
		{"Go-http-client/", "Go program"},
	}
	systems = []agentWord{
		{"Android", "Android"},
		{"iPhone", "iPhone"},
		{"iPad", "iPad"},
		{"Windows", "Windows"},
		{"Mac OS X", "macOS"},
		{"CrOS", "ChromeOS"},
		{"Linux", "Linux"},
	}
)

// device makes of a User-Agent what its owner recognises in a list of devices:
// known words only, never what the client wrote.
func device(agent string) string {
	browser := find(browsers, agent)
	system := find(systems, agent)
	switch {
	case browser == "" && system == "":
		return "Unknown device"
	case browser == "":
		return "Unknown browser on " + system
	case system == "":
		return browser
	}
	return browser + " on " + system
}

func find(words []agentWord, in string) string {
	for _, w := range words {
		if strings.Contains(in, w.token) {
			return w.name
		}
	}
	return ""
}
