"""The tests, by rooms; what they share is in `tests.helpers`."""
