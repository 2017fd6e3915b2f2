package web

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"html/template"
	"io/fs"
	"net/http"
	"path"
	"time"
)

// contentTypes are those of the files that we have. The system's table is not asked: an image holds none.
var contentTypes = map[string]string{
	".css": "text/css; charset=utf-8",
	".js":  "text/javascript; charset=utf-8",
	".svg": "image/svg+xml",
}

// Assets are the templates and static files, read once.
type Assets struct {
	pages  *template.Template
	static map[string]asset
}

type asset struct {
	body        []byte
	contentType string
	etag        string
}

// LoadAssets reads templates/*.html and static/* below share. All mistakes are found here, before the app says that it is
// ready, so a broken template never takes the place of a good one.
func LoadAssets(share fs.FS) (*Assets, error) {
	a := &Assets{static: map[string]asset{}}
	files, err := fs.ReadDir(share, "static")
	if err != nil {
		return nil, fmt.Errorf("read static files: %w", err)
	}
	for _, f := range files {
		contentType, ok := contentTypes[path.Ext(f.Name())]
		if f.IsDir() || !ok {
			continue // an editor's leftovers, say
		}
		body, err := fs.ReadFile(share, path.Join("static", f.Name()))
		if err != nil {
			return nil, fmt.Errorf("read static files: %w", err)
		}
		sum := sha256.Sum256(body)
		a.static[f.Name()] = asset{body, contentType, hex.EncodeToString(sum[:6])}
	}
	a.pages, err = template.New("").Option("missingkey=error").
		Funcs(template.FuncMap{"static": a.address}).ParseFS(share, "templates/*.html")
	if err != nil {
		return nil, fmt.Errorf("read templates: %w", err)
	}
	for _, name := range []string{"page.html", "room.html", "problem.html"} {
		if a.pages.Lookup(name) == nil {
			return nil, fmt.Errorf("read templates: there is no templates/%s", name)
		}
	}
	return a, nil
}

// address is where a static file is found. It changes with the content, so browsers may keep what they have.
func (a *Assets) address(name string) (string, error) {
	f, ok := a.static[name]
	if !ok {
		return "", fmt.Errorf("there is no static/%s", name)
	}
	return "/static/" + name + "?v=" + f.etag, nil
}

// Render fills in a template. It gives the whole page or an error, never half a page.
func (a *Assets) Render(name string, data any) ([]byte, error) {
	var buf bytes.Buffer
	if err := a.pages.ExecuteTemplate(&buf, name, data); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

// ServeStatic answers with a static file.
func (a *Assets) ServeStatic(w http.ResponseWriter, r *http.Request, name string) {
	f, ok := a.static[name]
	if !ok {
		http.NotFound(w, r)
		return
	}
	cache := "no-cache"
	if r.URL.Query().Get("v") == f.etag {
		cache = "public, max-age=31536000, immutable"
	}
	w.Header().Set("Cache-Control", cache)
	w.Header().Set("Content-Type", f.contentType)
	w.Header().Set("ETag", `"`+f.etag+`"`)
	http.ServeContent(w, r, name, time.Time{}, bytes.NewReader(f.body))
}
