"""Metrics: functions of tensors."""
