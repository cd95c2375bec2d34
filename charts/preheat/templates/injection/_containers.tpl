{{- /*
The containers that are added, as preheat_operator.loader_container and upload_container have them.
*/ -}}
{{- define "preheat.injection.containers" }}
  # What the loader and the upload have in common: of two variables, or mounts, for one thing the first one counts.
  - name: environment
    expression: >-
      variables.identity.filter(e, e == variables.identity.filter(o, o.name == e.name)[0]).distinct() + [
        {{- range $variable, $value := .Values.loader.environment }}
        dyn({'name': {{ $variable | toJson }}, 'value': {{ $value | replace "$" "$$" | toJson }}}),
        {{- end }}
      ]
  - name: tokenVolumes
    expression: >-
      variables.identityMounts.filter(m, m == variables.identityMounts.filter(o, o.mountPath == m.mountPath)[0]).distinct()
  - name: inherited
    expression: object.spec.?securityContext.?runAsUser.orValue(0) != 0
  - name: users
    expression: >-
      variables.inherited ? []
      : variables.chosen.filter(c, c.?securityContext.?runAsUser.orValue(0) != 0).map(c, c.securityContext)
  - name: securityContext
    expression: >-
      {
        ?'runAsUser': variables.inherited ? optional.none()
          : optional.of(variables.users.size() > 0 ? variables.users[0].runAsUser : dyn(65532)),
        ?'runAsGroup': variables.users.size() > 0 ? variables.users[0].?runAsGroup : optional.none(),
        'runAsNonRoot': dyn(true),
        'allowPrivilegeEscalation': dyn(false),
        'readOnlyRootFilesystem': dyn(true),
        'capabilities': dyn({'drop': ['ALL']}),
        'seccompProfile': dyn({'type': 'RuntimeDefault'})
      }
  # The volumes of the run and of the upload as another container mounts them.
  - name: runVolume
    expression: >-
      variables.runMounts.size() == 0 ? [] : [variables.runMounts[0][0].mount].map(m,
        {'name': dyn(m.name), 'mountPath': dyn(m.mountPath), 'readOnly': dyn(true), ?'subPath': m.?subPath})
  - name: uploadVolume
    expression: >-
      [variables.holding.upload[variables.saving[0]][0].mount].map(m,
        {'name': dyn(m.name), 'mountPath': dyn(m.mountPath), 'readOnly': dyn(true), ?'subPath': m.?subPath})

  - name: loader
    expression: >-
      {
        'name': dyn('preheat-loader'),
        'image': dyn({{ include "preheat.image" (dict "root" . "image" .Values.loader.image) | squote }}),
        'imagePullPolicy': dyn({{ .Values.loader.image.pullPolicy | squote }}),
        'command': dyn(['python', '-m', 'preheat.loader']),
        'env': dyn(variables.environment + [
          dyn({'name': 'PREHEAT_PIPELINE', 'value': string(variables.recipe.pipeline)}),
          dyn({'name': 'PREHEAT_VOLUME', 'value': '/preheat'}),
          dyn(variables.uid),
          dyn({'name': 'PREHEAT_SHIM', 'value': string(variables.shim)})
        ] + variables.recipe.environment
          {{- if .Values.progress.enabled }}
          + (object.spec.?hostNetwork.orValue(false) ? [] : [dyn({'name': 'PREHEAT_PROGRESS_PORT', 'value': '18738'})])
          {{- end }}),
        ?'resources': variables.bestEffort ? optional.none() : optional.of(dyn(variables.resources)),
        'volumeMounts': dyn([dyn({'name': 'preheat', 'mountPath': '/preheat'})] + variables.tokenVolumes
          + variables.runVolume.filter(run, !variables.tokenVolumes.exists(m, m.mountPath == run.mountPath))),
        'securityContext': dyn(variables.securityContext),
        'terminationMessagePolicy': dyn('FallbackToLogsOnError')
      }
  # Its share of a pod that counts as a whole needs no words.
  - name: upload
    expression: >-
      {
        'name': dyn('preheat-upload'),
        'image': dyn({{ include "preheat.image" (dict "root" . "image" .Values.loader.image) | squote }}),
        'imagePullPolicy': dyn({{ .Values.loader.image.pullPolicy | squote }}),
        'command': dyn(['python', '-m', 'preheat.uploading.sidecar']),
        'restartPolicy': dyn('Always'),
        'env': dyn(variables.environment
          + [dyn({'name': 'PREHEAT_UPLOAD', 'value': string(variables.recipe.upload.settings)})]
          + variables.recipe.upload.environment
          {{- if .Values.progress.enabled }}
          + (object.spec.?hostNetwork.orValue(false) ? []
            : [dyn(variables.uid), dyn({'name': 'PREHEAT_UPLOADS_PORT', 'value': '18739'})])
          {{- end }}),
        ?'resources': variables.bestEffort || variables.asWhole ? optional.none()
          : optional.of(dyn(!variables.guaranteed ? variables.recipe.upload.resources
            : {'requests': variables.recipe.upload.exact, 'limits': variables.recipe.upload.exact})),
        'volumeMounts': dyn(variables.uploadVolume
          + variables.tokenVolumes.filter(m, m.mountPath != variables.uploadVolume[0].mountPath)),
        'securityContext': dyn(variables.securityContext),
        'terminationMessagePolicy': dyn('FallbackToLogsOnError')
      }

  - name: added
    expression: >-
      (variables.injected ? [] : [variables.loader])
      + (!has(params.spec.upload) || variables.uploading ? [] : [variables.upload])
  # Seconds that the pod has to end at least.
  - name: grace
    expression: params.spec.?upload.?graceSeconds.orValue(0)
{{- end }}
