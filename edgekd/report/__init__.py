"""What a build found out: `model.Report`, written to the terminal (`terminal`), as JSON and as HTML (`html`)."""
