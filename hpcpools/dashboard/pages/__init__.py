"""The pages: each reads facts and fills a template; the gate has let the request pass before."""
