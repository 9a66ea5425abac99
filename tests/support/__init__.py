"""Helpers of the tests, the only room that they import from; tools/check_tests.py holds that."""
