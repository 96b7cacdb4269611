// Render each list of messages on stdin with the template in a file, as Ollama does.
package main

import (
	"encoding/json"
	"os"
	"text/template"
)

type Message struct{ Role, Content string }

func main() {
	raw, _ := os.ReadFile(os.Args[1])
	t := template.Must(template.New("").Parse(string(raw)))
	var cases [][]Message
	if err := json.NewDecoder(os.Stdin).Decode(&cases); err != nil { panic(err) }
	out := []string{}
	for _, c := range cases {
		var b = new(writer)
		ms := []*Message{}
		for i := range c { ms = append(ms, &c[i]) }
		if err := t.Execute(b, map[string]any{"Messages": ms, "System": "", "Response": ""}); err != nil { panic(err) }
		out = append(out, string(b.data))
	}
	json.NewEncoder(os.Stdout).Encode(out)
}

type writer struct{ data []byte }
func (w *writer) Write(p []byte) (int, error) { w.data = append(w.data, p...); return len(p), nil }
