"""Report: writes a build's report as text for the terminal (`terminal`) and as HTML (`html`)."""
