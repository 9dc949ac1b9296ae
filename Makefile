PYTHON ?= python3
TASKS := demo check test lab setup space clean help

.DEFAULT_GOAL := help
.PHONY: $(TASKS)
$(TASKS):
	@$(PYTHON) scripts/tasks.py $@ $(ARGS)
