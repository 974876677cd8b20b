// Renders templates as Helm does, as far as text/template does it alone: render VALUES TEMPLATE... prints the templates
// one after the other. The chart uses no function that is Helm's own.
package main

import (
	"os"
	"text/template"

	"gopkg.in/yaml.v2"
)

func main() {
	text, err := os.ReadFile(os.Args[1])
	values := map[string]interface{}{}
	if err == nil {
		err = yaml.Unmarshal(text, &values)
	}
	for _, path := range os.Args[2:] {
		if err != nil {
			break
		}
		var parsed *template.Template
		if parsed, err = template.ParseFiles(path); err == nil {
			err = parsed.Option("missingkey=error").Execute(os.Stdout, map[string]interface{}{"Values": values})
		}
	}
	if err != nil {
		os.Stderr.WriteString(err.Error() + "\n")
		os.Exit(1)
	}
}
