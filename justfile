# Thin names for the project's tasks; `cargo xtask help` has them all.

# List the recipes
default:
    @just --list

# A cluster with the operator and a cache on it, reachable from here
up *args:
    cargo xtask up {{args}}

# Remove what `up` made; the cache folder of built programs stays
down *args:
    cargo xtask down {{args}}

# Everything that CI runs
test *args:
    cargo xtask test {{args}}

# The scenarios, or those whose name contains a word
e2e *filter:
    cargo xtask e2e {{filter}}

# Random faults by a seed: what is lost, how long nothing goes, what fails
chaos *args:
    cargo xtask chaos {{args}}

# Faults one by one, several times each, as a table
measure *args:
    cargo xtask measure {{args}}

# The images of this checkout
images:
    cargo xtask images

# The generated files: the chart's CRD and manifests/base
generate *args:
    cargo xtask generate {{args}}

# The API with Redis, by docker-compose, and the contract against it
compose:
    cargo xtask compose
