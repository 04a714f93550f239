"""What tests of several rooms build: recipes, bundles, networks, boards. No test module imports another."""
