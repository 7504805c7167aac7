package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"
)

type version struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}

func versions(f *family, s *server) []version {
	all := []version{{"server", s.version}}
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if slices.Contains(f.modules, m.Path) {
				all = append(all, version{m.Path, m.Version})
			}
		}
	}
	if _, ok := f.find(express); ok {
		all = append(all, nodeVersions()...)
	}
	return all
}

func nodeVersions() []version {
	root, err := repository()
	if err != nil {
		return nil
	}
	out, err := exec.Command("node", "--version").Output()
	if err != nil {
		return nil
	}
	all := []version{{"node", strings.TrimSpace(string(out))}}
	var lock struct {
		Packages map[string]struct {
			Version      string            `json:"version"`
			Dependencies map[string]string `json:"dependencies"`
		} `json:"packages"`
	}
	text, err := os.ReadFile(filepath.Join(root, "bench", "node", "package-lock.json"))
	if err != nil || json.Unmarshal(text, &lock) != nil {
		return all
	}
	for name := range lock.Packages[""].Dependencies {
		all = append(all, version{name + " (npm)", lock.Packages["node_modules/"+name].Version})
	}
	slices.SortFunc(all[1:], func(a, b version) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// kernelThreads is the process whose children the kernel's threads are.
const kernelThreads = 2

// machineTime is the processor time that all programs have used, 0 if the system
// does not tell. Interrupts and the kernel's own threads, which write to disks, are
// left out: on a machine that does nothing else they work for what is measured.
func machineTime() time.Duration {
	text, _ := os.ReadFile("/proc/stat")
	first, _, _ := strings.Cut(string(text), "\n")
	var n [8]int64 // of hundredths of a second: user, nice, system, idle, waiting, interrupts (2), stolen
	if _, err := fmt.Sscanf(first, "cpu %d %d %d %d %d %d %d %d", &n[0], &n[1], &n[2], &n[3], &n[4], &n[5], &n[6], &n[7]); err != nil {
		return 0
	}
	return time.Duration(n[0]+n[1]+n[2]+n[7])*10*time.Millisecond - processTime(kernelThreads)
}

// cpuModel is the processor's name, where the system tells.
func cpuModel() string {
	text, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	for line := range strings.Lines(string(text)) {
		if name, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
